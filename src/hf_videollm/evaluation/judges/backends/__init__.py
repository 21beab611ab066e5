"""Who answers a judge's messages: an endpoint that speaks OpenAI's API, a local model, or a rule without a model."""
