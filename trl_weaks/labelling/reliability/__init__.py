"""How far labels can be trusted: report card, triage, trust weights, gold."""
