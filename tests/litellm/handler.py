"""The model behind the proxy: deterministic, local, in pieces."""

from litellm.llms.custom_llm import CustomLLM


def text_of(message):
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)


def answer(messages):
    """What the model says, and the command that it wants run, if any."""
    last = messages[-1]
    if last["role"] == "tool":
        return f"The command printed: {text_of(last).strip()}.", None
    said = [text_of(m) for m in messages if m["role"] == "user"]
    if said[-1].startswith("run: "):
        return "Let me see. ", said[-1].removeprefix("run: ")
    return f"Message {len(said)} of this conversation, the first was: {said[0]}", None


def piece(text="", finish="", tool=None):
    usage = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
    return {
        "text": text,
        "is_finished": bool(finish),
        "finish_reason": finish,
        "index": 0,
        "tool_use": tool,
        "usage": usage if finish else None,
    }


class Handler(CustomLLM):
    async def astreaming(self, model, messages, *args, **kwargs):
        text, command = answer(messages)
        for start in range(0, len(text), 6):
            yield piece(text[start : start + 6])
        if command is None:
            yield piece(finish="stop")
            return
        # Arguments in two pieces, as real models send them.
        arguments = '{"command": "' + command + '"}'
        middle = len(arguments) // 2
        for n, part in enumerate((arguments[:middle], arguments[middle:])):
            yield piece(
                tool={
                    "id": f"call_{len(messages)}" if n == 0 else None,
                    "type": "function",
                    "index": 0,
                    "function": {"name": "bash" if n == 0 else None, "arguments": part},
                }
            )
        yield piece(finish="tool_calls")


handler = Handler()
