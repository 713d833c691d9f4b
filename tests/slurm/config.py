"""The configuration files of a test cluster: what lets Slurm 22.05 run on one machine, without root.

* `slurmd -N NAME`, a port each: many nodes on one machine. `config_overrides`: they claim CPUs that are not there.
* The device files of GPUs may be links to the null device. Plain files are refused, as is a `Count=` without files.
* NoInAddrAny: daemons and srun listen at the address of the host name; without it, at all of the machine's.
* Shorter than Slurm's own: KillWait (30 s), the wait of a requeued job (cred_expire, 120 s), SlurmdTimeout (300 s).
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

SLURM_CONF = """\
ClusterName=test
SlurmctldHost=localhost({address})
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/run/munge,cred_expire={cred_expire}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd-%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd-%n.log
SlurmctldDebug=verbose
SlurmdDebug=verbose
SlurmctldSyslogDebug=quiet
SlurmdSyslogDebug=quiet
PlugStackConfig={folder}/plugstack.conf
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/linux
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=200
GresTypes=gpu
SlurmdParameters=config_overrides
PropagateResourceLimits=NONE
KillWait={kill_wait}
SlurmdTimeout={node_timeout}
# a node lost comes back by itself; one that an administrator set down does not
ReturnToService=1
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=100000,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime={grace}
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF
"""


class Node(NamedTuple):
    """One machine: the name Slurm has for it, its own host name, where it listens."""

    name: str
    host: str
    address: str
    port: int


def write_config(
    folder: Path,
    control: Node,
    nodes: Sequence[Node],
    *,
    cpus: int,
    gpus: int,
    memory_mb: int,
    grace: int,
    preempt_signal: bool,
    kill_wait: int,
    cred_expire: int,
    node_timeout: int,
    extra: Sequence[str],
) -> None:
    """Writes slurm.conf, gres.conf, the GPUs' device files and munge's key; the options are those of `Cluster`."""
    for name in ("state", "spool", "run", "dev", "log"):
        (folder / name).mkdir(exist_ok=True)
    has = f"CPUs={cpus} RealMemory={memory_mb}" + (f" Gres=gpu:{gpus}" if gpus else "")
    lines = [f"NodeName={n.name} NodeHostname={n.host} NodeAddr={n.address} Port={n.port} {has}" for n in nodes]
    if control.address.startswith("127."):
        lines.append("CommunicationParameters=NoInAddrAny,NoCtldInAddrAny")
    if preempt_signal:
        lines.append("SlurmctldParameters=preempt_send_user_signal")
    fixed = SLURM_CONF.format(
        folder=folder,
        address=control.address,
        port=control.port,
        user=pwd.getpwuid(os.getuid()).pw_name,
        grace=grace,
        kill_wait=kill_wait,
        cred_expire=cred_expire,
        node_timeout=node_timeout,
    )
    (folder / "slurm.conf").write_text(fixed + "\n".join([*lines, *extra, ""]))
    (folder / "plugstack.conf").touch()
    devices = [folder / "dev" / f"gpu{i}" for i in range(gpus)]
    for device in devices:
        device.symlink_to(os.devnull)
    names = ",".join(n.name for n in nodes)
    (folder / "gres.conf").write_text("".join(f"NodeName={names} Name=gpu File={device}\n" for device in devices))
    key = folder / "run" / "munge.key"
    key.touch(0o600)
    key.write_bytes(os.urandom(128))
