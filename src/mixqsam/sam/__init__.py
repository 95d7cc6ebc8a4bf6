"""All that knows SAM: loading, attention, units and their costs, quantized modules in place, the predictor."""
