"""An authority that nobody knows, and a certificate of it, made for one test."""

import datetime
import ipaddress
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def certificates(folder: Path, *names: str) -> tuple[Path, Path]:
    """A new authority, and a certificate for these names that it signed: PEM files, the second one with its key."""
    authority, server = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "an authority for tests")])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    signed = _signed(root, root, authority, authority, x509.BasicConstraints(ca=True, path_length=0))
    known = [x509.IPAddress(ipaddress.ip_address(n)) if n[0].isdigit() else x509.DNSName(n) for n in names]
    leaf = _signed(subject, root, server, authority, x509.SubjectAlternativeName(known))
    pem = serialization.Encoding.PEM
    key = server.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "authority.pem").write_bytes(signed.public_bytes(pem))
    (folder / "server.pem").write_bytes(key + leaf.public_bytes(pem))
    return folder / "authority.pem", folder / "server.pem"


def _signed(subject: x509.Name, issuer: x509.Name, key: Any, by: Any, extension: Any) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    made = x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number(), now - day, now + day)
    return made.add_extension(extension, critical=False).sign(by, hashes.SHA256())
