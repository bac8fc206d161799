"""What a secured Kafka for tests and trials needs: a certificate authority, certificates, users, passwords, in files.

Brokers and controllers know each other by certificates (mutual TLS); that listener is also the administrator's. Clients
use another one, with TLS, SASL/SCRAM or both. No password is ever an argument or in a log: each user has a file of
librdkafka properties, as `penstock run --client-config` takes it, which nobody else may read.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from confluent_kafka.admin import UserScramCredentialAlteration
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

CLIENT, INTERNAL, CONTROLLER = "CLIENT", "INTERNAL", "CONTROLLER"
"""The listeners of a secured broker."""
ADMIN = "admin"
"""The user who may do everything."""
_NODE = "kafka"
"""The name in the certificate of brokers and controllers."""
_MECHANISM = "SCRAM-SHA-512"
_VALID = datetime.timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Security:
    """How the clients of a cluster prove who they are, and the files that this takes.

    Args:
        folder: where the files go; those that are there are used again.
        tls: whether what clients send is encrypted.
        sasl: whether they need a user and a password.
        acls: whether users may do only what they were allowed to.

    Raises:
        ValueError: ACLs without names of users.
    """

    folder: Path
    tls: bool = True
    sasl: bool = True
    acls: bool = True

    def __post_init__(self) -> None:
        if self.acls and not self.sasl:
            raise ValueError("ACLs say what a user may do, and without SASL no client has a name: ask for both")

    @property
    def protocol(self) -> str:
        """`security.protocol` of clients."""
        return f"{'SASL_' if self.sasl else ''}{'SSL' if self.tls else 'PLAINTEXT'}"

    def prepare(self) -> None:
        """Make the certificates that are not there yet."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self._ca.exists():
            _write_certificates(self._ca, self._node)

    def broker_settings(self) -> dict[str, str]:
        """Settings of a broker, by Kafka's names."""
        protocols = {CLIENT: self.protocol, INTERNAL: "SSL", CONTROLLER: "SSL"}
        settings = {
            "listener.security.protocol.map": ",".join(f"{name}:{protocol}" for name, protocol in protocols.items()),
            "inter.broker.listener.name": INTERNAL,
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(self._node),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self._ca),
            f"listener.name.{INTERNAL.lower()}.ssl.client.auth": "required",
            f"listener.name.{CONTROLLER.lower()}.ssl.client.auth": "required",
        }
        if self.sasl:
            login = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
            settings["sasl.enabled.mechanisms"] = _MECHANISM
            settings[f"listener.name.{CLIENT.lower()}.{_MECHANISM.lower()}.sasl.jaas.config"] = login
        if self.acls:
            settings["authorizer.class.name"] = "org.apache.kafka.metadata.authorizer.StandardAuthorizer"
            settings["super.users"] = f"User:CN={_NODE};User:{ADMIN}"
        return settings

    def node_properties(self) -> dict[str, str]:
        """Properties of a client that is the administrator by its certificate, on the internal listener."""
        return {
            "security.protocol": "SSL",
            "ssl.ca.location": str(self._ca),
            "ssl.certificate.location": str(self._node),
            "ssl.key.location": str(self._node),
        }

    def node_file(self) -> Path:
        """The same for Kafka's own tools, as a file."""
        stores = {"keystore": self._node, "truststore": self._ca}
        lines = [f"ssl.{name}.{what}" for name, path in stores.items() for what in ("type=PEM", f"location={path}")]
        path = self.folder / "node.properties"
        path.write_text("\n".join(["security.protocol=SSL", *lines, ""]), encoding="utf-8")
        return path

    def client_file(self, user: str = ADMIN) -> Path:
        """The user's file of librdkafka properties; it is made, with a new password, where there is none."""
        path = self.folder / f"{user}.properties"
        if not path.exists():
            properties = {"security.protocol": self.protocol}
            if self.tls:
                properties["ssl.ca.location"] = str(self._ca)
            if self.sasl:
                password = secrets.token_urlsafe(24)
                properties |= {"sasl.mechanism": _MECHANISM, "sasl.username": user, "sasl.password": password}
            write_private(path, "".join(f"{name}={value}\n" for name, value in properties.items()).encode())
        return path

    def client_properties(self, user: str = ADMIN) -> dict[str, str]:
        """What is in the user's file."""
        lines = self.client_file(user).read_text(encoding="utf-8").splitlines()
        return {name: value for name, _, value in (line.partition("=") for line in lines)}

    @property
    def _ca(self) -> Path:
        return self.folder / "ca.pem"

    @property
    def _node(self) -> Path:
        return self.folder / "node.pem"


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read, from its first byte on."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


def users_of(passwords: Mapping[str, str]) -> list[UserScramCredentialAlteration]:
    """Orders to an `AdminClient` that give users their SCRAM passwords."""
    from confluent_kafka.admin import ScramCredentialInfo, ScramMechanism, UserScramCredentialUpsertion

    how = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)  # Kafka takes no fewer iterations
    return [UserScramCredentialUpsertion(user, how, password.encode()) for user, password in passwords.items()]


def _write_certificates(ca: Path, node: Path) -> None:
    """A new authority, whose own key is thrown away, and one certificate for all brokers."""
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = _certificate("Penstock trial CA", authority_key.public_key(), "Penstock trial CA", authority_key, None)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = _certificate(_NODE, key.public_key(), "Penstock trial CA", authority_key, names)
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_private(node, private + certificate.public_bytes(pem) + authority.public_bytes(pem))
    ca.write_bytes(authority.public_bytes(pem))


def _certificate(
    name: str,
    key: ec.EllipticCurvePublicKey,
    issuer: str,
    signed_by: ec.EllipticCurvePrivateKey,
    reached_as: list[x509.GeneralName] | None,
) -> x509.Certificate:
    """A certificate for a server that is reached by these names; without any, for an authority."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import NameOID

    def called(what: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, what)])

    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(called(name))
        .issuer_name(called(issuer))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))  # clocks of a test may jump
        .not_valid_after(now + _VALID)
        .add_extension(x509.BasicConstraints(ca=reached_as is None, path_length=None), critical=True)
    )
    if reached_as is not None:
        certificate = certificate.add_extension(x509.SubjectAlternativeName(reached_as), critical=False)
    return certificate.sign(signed_by, hashes.SHA256())
