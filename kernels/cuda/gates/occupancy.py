"""How many blocks of a kernel an SM holds at once, from the limits that NVIDIA's programming guide tables per architecture."""
import dataclasses

REGISTERS = 65536  # of an SM, on all of them
REGISTER_UNIT = 256  # a warp's registers are given in this unit
PARTITIONS = 4  # an SM's quarters: each has a quarter of the registers
RESERVED_SHARED = 1024  # of every block


@dataclasses.dataclass(frozen=True)
class Sm:
    threads: int
    blocks: int
    shared_bytes: int


SMS = {
    "87": Sm(1536, 16, 164 * 1024),
    "89": Sm(1536, 24, 100 * 1024),
    "90": Sm(2048, 32, 228 * 1024),
    "100": Sm(2048, 32, 228 * 1024),
    "120": Sm(1536, 24, 100 * 1024),
}


def sm_of(arch):
    return SMS[arch.rstrip("af")]


def blocks_per_sm(arch, registers, threads, shared_bytes):
    """0: the kernel does not fit."""
    sm = sm_of(arch)
    warps = -(-threads // 32)
    warp_registers = -(-max(registers, 1) * 32 // REGISTER_UNIT) * REGISTER_UNIT
    warps_by_registers = REGISTERS // PARTITIONS // warp_registers * PARTITIONS
    shared = -(-(shared_bytes + RESERVED_SHARED) // 128) * 128
    return min(sm.blocks, sm.threads // (warps * 32), warps_by_registers // warps, sm.shared_bytes // shared)
