"""A test cluster whose nodes are hosts of their own: network, address, host name, and a cable that can be cut.

Each machine is in a network namespace; a bridge in that of slurmctld's machine is the switch. Nothing of it is seen on
the machine at large, so commands have to run inside (`Cluster.inside`), and all of it vanishes with the last process.
"""

from __future__ import annotations

import os

from tests.slurm.cluster import CONTROL, Cluster
from tests.slurm.config import Node
from tests.slurm.host import may_unshare, tool

KINDS = ("net", "uts", "mount")


class NetnsCluster(Cluster):
    """As `Cluster`, with nodes n1, n2, ... at 10.77.0.11, ...; needs root, or a kernel that allows user namespaces."""

    @classmethod
    def missing(cls) -> str:
        """Returns why there can be no such cluster on this machine, with the remedy; '' where there can."""
        if not tool("ip") or not tool("nsenter"):
            return "ip or nsenter is not installed: apt-get install iproute2 util-linux"
        if not may_unshare(*KINDS):
            return "network namespaces are not allowed here: be root, or allow user namespaces"
        return super().missing()

    def node_names(self) -> list[str]:
        """Returns the nodes' names, which are host names too and resolve on each of them."""
        return [f"n{1 + i}" for i in range(self.nodes)]

    def cut_node(self, name: str) -> None:
        """Cuts the node's cable: packets are lost, and nobody is told."""
        self._ip("link", "set", f"v-{name}", "down")

    def join_node(self, name: str) -> None:
        """Mends the node's cable; the node then comes back to Slurm by itself, within seconds.

        If its old job is started anew in that very second, the node refuses it ("Job credential revoked", srun's exit
        168) and the job is FAILED, as would be on any cluster. A test that must not meet this holds the job meanwhile.
        """
        self._ip("link", "set", f"v-{name}", "up")

    def kill_node(self, name: str) -> None:
        """Power loss: the cable goes first, so peers do not see the kernel close the connections."""
        self._ip("link", "delete", f"v-{name}")
        super().kill_node(name)

    def _plan(self) -> tuple[Node, list[Node]]:
        nodes = [Node(name, name, f"10.77.0.{11 + i}", 6818) for i, name in enumerate(self.node_names())]
        control = Node(CONTROL, CONTROL, "10.77.0.1", 6817)
        rows = ["127.0.0.1 localhost", *(f"{node.address} {node.host}" for node in (control, *nodes)), ""]
        (self.folder / "hosts").write_text("\n".join(rows))
        return control, nodes

    def _open(self, node: Node) -> None:
        prefix = may_unshare(*KINDS)
        if node.name != CONTROL and os.geteuid() != 0:
            # a user namespace below that of the control machine, whose `ip` may then put a cable into it
            prefix = (*self._hosts[CONTROL].enter(), *prefix)
        pid = self._boot(node, prefix, [node.host, str(self.folder / "hosts")]).process.pid
        self._ip("link", "set", "lo", "up", host=node.name)
        if node.name == CONTROL:
            self.inside = self._hosts[CONTROL].enter("net", "uts")
            self._ip("link", "add", "switch", "type", "bridge")
            cable = "switch"
        else:
            cable = "eth0"
            self._ip("link", "add", f"v-{node.name}", "type", "veth", "peer", "name", cable, "netns", str(pid))
            self._ip("link", "set", f"v-{node.name}", "master", "switch", "up")
        self._ip("address", "add", f"{node.address}/24", "dev", cable, host=node.name)
        self._ip("link", "set", cable, "up", host=node.name)

    def _ip(self, *words: str, host: str = CONTROL) -> None:
        log = self.folder / "log" / "ip.out"
        if self._hosts[host].ask("run", log, tool("ip"), *words) != "0":
            raise RuntimeError(f"ip {' '.join(words)}: {log.read_text()}")
