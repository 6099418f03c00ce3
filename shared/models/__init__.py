"""Language models: asked within limits, with customers' words cleaned of orders, and believed as far as rules allow."""
