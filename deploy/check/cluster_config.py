"""What the processes of the one-node cluster are told. Nothing listens outside of its network, so one token opens all."""

from __future__ import annotations

import json
import secrets
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

NODE = "node"
NODE_ADDRESS = "10.244.0.1"
POD_NETWORK = "10.244.0.0/24"
SERVICES = "10.96.0.0/24"
APISERVER = "https://127.0.0.1:6443"
ETCD = "http://127.0.0.1:2379"


def write(folder: Path) -> None:
    """Key, token, kubeconfig and CNI configuration."""
    key = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    (folder / "accounts.key").write_bytes(key)
    token = secrets.token_hex(16)
    (folder / "tokens").write_text(f"{token},admin,admin,system:masters\n", encoding="utf-8")
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": APISERVER, "insecure-skip-tls-verify": True}}],
        "users": [{"name": "u", "user": {"token": token}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    (folder / "kubeconfig").write_text(json.dumps(config), encoding="utf-8")
    network = {
        "cniVersion": "0.3.1",
        "name": "pods",
        "type": "bridge",
        "bridge": "cni0",
        "isDefaultGateway": True,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": POD_NETWORK}]],
            "dataDir": str(folder / "addresses"),
        },
    }
    (folder / "cni").mkdir()
    (folder / "cni/pods.conf").write_text(json.dumps(network), encoding="utf-8")


def commands(folder: Path, programs: Path, etcd: Path, plugins: Path, pause: str) -> dict[str, list[str]]:
    """Process → its command."""
    client = [f"--kubeconfig={folder / 'kubeconfig'}", f"--cert-dir={folder / 'certificates'}"]
    alone = [*client, "--bind-address=127.0.0.1", "--port=0", "--leader-elect=false"]
    key = folder / "accounts.key"
    told = {
        "kube-apiserver": [
            f"--etcd-servers={ETCD}",
            "--bind-address=127.0.0.1",
            "--secure-port=6443",
            f"--advertise-address={NODE_ADDRESS}",
            f"--cert-dir={folder / 'certificates'}",
            f"--service-cluster-ip-range={SERVICES}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}",
            f"--token-auth-file={folder / 'tokens'}",
            "--anonymous-auth=false",
            "--kubelet-preferred-address-types=InternalIP",
            "--feature-gates=TTLAfterFinished=true",
        ],
        "kube-controller-manager": [
            *alone,
            f"--service-account-private-key-file={key}",
            "--horizontal-pod-autoscaler-sync-period=3s",
            "--feature-gates=TTLAfterFinished=true",
        ],
        "kube-scheduler": alone,
        "kubelet": [
            *client,
            f"--hostname-override={NODE}",
            f"--node-ip={NODE_ADDRESS}",
            f"--address={NODE_ADDRESS}",
            "--read-only-port=0",
            "--healthz-port=0",
            f"--root-dir={folder / 'kubelet'}",
            f"--experimental-dockershim-root-directory={folder / 'dockershim'}",
            f"--container-runtime-endpoint=unix://{folder / 'dockershim.sock'}",
            f"--volume-plugin-dir={folder / 'volume-plugins'}",
            f"--pod-infra-container-image={pause}",
            "--network-plugin=cni",
            f"--cni-conf-dir={folder / 'cni'}",
            f"--cni-bin-dir={plugins}",
            f"--cni-cache-dir={folder / 'cni-cache'}",
            f"--cluster-dns={NODE_ADDRESS}",
            "--cluster-domain=cluster.local",
            "--resolv-conf=",
            "--cgroup-driver=cgroupfs",
            "--fail-swap-on=false",
            "--oom-score-adj=0",
            "--eviction-hard=nodefs.available<1%",
            "--image-gc-high-threshold=100",
            "--feature-gates=DevicePlugins=false",
        ],
        "kube-proxy": [
            f"--kubeconfig={folder / 'kubeconfig'}",
            f"--hostname-override={NODE}",
            "--proxy-mode=iptables",
            f"--cluster-cidr={POD_NETWORK}",
            # They would be set for the whole machine.
            "--conntrack-max-per-core=0",
            "--conntrack-tcp-timeout-established=0",
            "--conntrack-tcp-timeout-close-wait=0",
            "--healthz-bind-address=127.0.0.1:10256",
            "--metrics-bind-address=127.0.0.1:10249",
        ],
    }
    found = {name: [str(programs / name), *words] for name, words in told.items()}
    peers = "http://127.0.0.1:2380"
    found["etcd"] = [
        str(etcd),
        f"--data-dir={folder / 'etcd'}",
        f"--listen-client-urls={ETCD}",
        f"--advertise-client-urls={ETCD}",
        f"--listen-peer-urls={peers}",
        f"--initial-advertise-peer-urls={peers}",
        f"--initial-cluster=default={peers}",
        "--unsafe-no-fsync",
    ]
    return found
