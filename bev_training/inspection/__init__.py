"""What is wrong with a recording or a converted drive: measurements, rules, reports."""
