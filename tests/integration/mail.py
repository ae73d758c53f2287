"""A real mail server, as small as one can be: it takes every message and remembers it."""

import base64
from dataclasses import dataclass
from email import message_from_bytes, policy
from email.message import EmailMessage
from socketserver import StreamRequestHandler, ThreadingTCPServer
from threading import Thread
from types import TracebackType
from typing import Self


@dataclass(frozen=True)
class Mail:
    """One message: who sent it to whom, the password that was given, and the message itself."""

    sender: str
    recipients: tuple[str, ...]
    password: str
    message: EmailMessage


class MailServer:
    """Speaks SMTP on a free port of this machine; a context manager."""

    def __init__(self) -> None:
        self.mails: list[Mail] = []
        mails = self.mails

        class Session(StreamRequestHandler):
            def say(self, line: str) -> None:
                self.wfile.write(f"{line}\r\n".encode())

            def handle(self) -> None:
                sender, recipients, password = "", [], ""
                self.say("220 test")
                while line := self.rfile.readline().decode().strip():
                    command, _, rest = line.partition(" ")
                    match command.upper():
                        case "EHLO":
                            self.say("250-test")
                            self.say("250 AUTH PLAIN")
                        case "AUTH":
                            password = base64.b64decode(rest.split(" ")[1]).decode().rpartition("\0")[2]
                            self.say("235 yes")
                        case "MAIL":
                            sender = rest.partition("<")[2].partition(">")[0]
                            self.say("250 ok")
                        case "RCPT":
                            recipients.append(rest.partition("<")[2].partition(">")[0])
                            self.say("250 ok")
                        case "DATA":
                            self.say("354 go on")
                            content = b""
                            while (part := self.rfile.readline()) not in (b".\r\n", b""):
                                content += part
                            message = message_from_bytes(content, policy=policy.default)
                            mails.append(Mail(sender, tuple(recipients), password, message))
                            self.say("250 ok")
                        case "QUIT":
                            self.say("221 bye")
                            return
                        case _:
                            self.say("502 unknown")

        class Server(ThreadingTCPServer):
            daemon_threads = True

        self._server = Server(("127.0.0.1", 0), Session)

    def __enter__(self) -> Self:
        Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"
