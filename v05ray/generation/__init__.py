"""The inference engine: vLLM inside the calling process, driven by one thread, with an asyncio API.

`environment` names what must be set before torch is imported; `engine.Engine` draws, loads weights, aborts;
`core.VllmCore` is the only code that touches vLLM. Importing this package, `environment` or `engine` loads neither
torch nor vLLM.
"""
