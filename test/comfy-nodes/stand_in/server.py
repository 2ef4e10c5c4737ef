"""No server: the pack then registers no routes."""


class PromptServer:
    instance = None
