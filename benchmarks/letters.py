"""A mail as a mail program shows it: its HTML, with the pictures that travel in it in their places."""

import base64
from email import message_from_bytes, policy


def page(content: bytes) -> str:
    """content: the whole mail. KeyError where it has no HTML."""
    message = message_from_bytes(content, policy=policy.default)
    html, pictures = "", {}
    for part in message.walk():
        if part.get_content_type() == "text/html":
            html = part.get_content()
        elif part.get_content_maintype() == "image":
            pictures[part["Content-ID"].strip("<>")] = base64.b64encode(part.get_content()).decode()
    if not html:
        raise KeyError("text/html")
    for cid, picture in pictures.items():
        html = html.replace(f"cid:{cid}", f"data:image/png;base64,{picture}")
    return html
