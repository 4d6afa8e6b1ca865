"""Chat templates as real models have them, cut down: what each does with an answer's white space."""

PROMPT = "{% if add_generation_prompt %}<assistant>\n{% endif %}"
KEEPS = "{% for m in messages %}<{{ m.role }}>\n{{ m.content }}</s>\n{% endfor %}" + PROMPT
TRIMS = "{% for m in messages %}<{{ m.role }}>\n{{ m.content | trim }}</s>{% endfor %}" + PROMPT  # Llama 3, Gemma
SPACED = (  # Llama 2
    "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content | trim }} [/INST]"
    "{% else %}{{ ' ' + m.content | trim + ' </s>' }}{% endif %}{% endfor %}"
)
THINKS = (  # Qwen 3
    "{% for m in messages %}<{{ m.role }}>\n{% if m.role == 'assistant' %}<think>\n\n</think>\n\n"
    "{{ m.content.split('</think>')[-1].lstrip('\n') }}{% else %}{{ m.content }}{% endif %}</s>\n{% endfor %}" + PROMPT
)
REFUSES = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role, please') }}{% endif %}" + TRIMS
TEMPLATES = {"keeps": KEEPS, "trims": TRIMS, "spaced": SPACED, "thinks": THINKS}
OPENS = THINKS.replace(PROMPT, "{% if add_generation_prompt %}<assistant>\n<think>\n\n</think>\n\n{% endif %}")
