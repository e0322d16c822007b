"""Records, inside gdb, what an unwinder needs at each stop, and gdb's own backtrace.

The format of a record; all words are little-endian u64:
    1, 17 registers in DWARF order, flag, n, n pcs (leaf first),
    m, m × (address, length, bytes)
The file starts with the length and text of /proc/PID/maps and the address, length and bytes of
the vdso. It ends with END. The flag is 1 if the pcs end at gdb's outermost frame, and 0 if gdb gave
up or reached a limit.
"""

import struct

import gdb

REGISTERS = ["rax", "rdx", "rcx", "rbx", "rsi", "rdi", "rbp", "rsp"]
REGISTERS += ["r%d" % n for n in range(8, 16)] + ["rip"]
WINDOW = 64 << 10
END = 0x646E65


def u64(*values):
    return struct.pack("<%dQ" % len(values), *(v & (1 << 64) - 1 for v in values))


class Recorder:
    def __init__(self, path):
        self.out = open(path, "wb")
        self.count = 0
        for setting in [
            "pagination off",
            "confirm off",
            "width 0",
            "backtrace past-main on",
            "backtrace past-entry on",
            "backtrace limit 5000",
            "debuginfod enabled off",
            "non-stop off",
            "unwindonsignal off",
        ]:
            gdb.execute("set " + setting, to_string=True)

    def maps(self):
        pid = gdb.selected_inferior().pid
        with open("/proc/%d/maps" % pid) as f:
            return f.read()

    def header(self):
        """Writes the address space. Call it once, after all libraries are loaded."""
        maps = self.maps()
        text = maps.encode()
        vdso = next((l for l in maps.splitlines() if l.endswith("[vdso]")), None)
        start, data = 0, b""
        if vdso:
            start, end = (int(a, 16) for a in vdso.split()[0].split("-"))
            data = bytes(gdb.selected_inferior().read_memory(start, end - start))
        self.out.write(u64(len(text)) + text + u64(start, len(data)) + data)

    def writable(self):
        for line in self.maps().splitlines():
            fields = line.split()
            if fields[1].startswith("rw"):
                yield tuple(int(a, 16) for a in fields[0].split("-"))

    def frames(self, outermost=None):
        pcs, stack_pointers = [], []
        frame = gdb.newest_frame()
        complete = 0
        while frame is not None:
            # Skip tail calls: they have no frame, gdb infers them from debug information.
            if frame.type() not in (gdb.INLINE_FRAME, gdb.TAILCALL_FRAME):
                pcs.append(frame.pc())
                stack_pointers.append(int(frame.read_register("rsp")))
            if outermost is not None and frame.pc() == outermost:
                return pcs, stack_pointers, 1
            try:
                older = frame.older()
            except gdb.error:
                break
            if older is None:
                complete = int(frame.unwind_stop_reason() in (gdb.FRAME_UNWIND_OUTERMOST, 0))
            frame = older
        return pcs, stack_pointers, complete

    def stop(self, callers=None, outermost=None):
        """Records this stop. `callers`, if given, replaces gdb's frames after the leaf.
        `outermost` is the pc at which the stack is known to end although gdb continues."""
        frame = gdb.newest_frame()
        registers = [int(frame.read_register(r)) for r in REGISTERS]
        pcs, stack_pointers, complete = self.frames(outermost)
        if callers is not None:
            pcs, complete = [registers[16]] + callers, 1
        regions = []
        ranges = list(self.writable())
        for sp in stack_pointers:
            if any(a <= sp < a + len(d) for a, d in regions):
                continue
            for start, end in ranges:
                if start <= sp <= end:
                    low, high = max(start, sp - 256), min(end, sp + WINDOW)
                    memory = gdb.selected_inferior().read_memory(low, high - low)
                    regions.append((low, bytes(memory)))
        self.out.write(u64(1, *registers, complete, len(pcs), *pcs, len(regions)))
        for address, data in regions:
            self.out.write(u64(address, len(data)) + data)
        self.count += 1
        return pcs[1:]

    def step(self, count, callers=None, outermost=None):
        """Records `count` stops, one instruction apart."""
        for _ in range(count):
            self.stop(callers, outermost)
            gdb.execute("stepi", to_string=True)

    def step_calls(self, count, every=1):
        """Like `step`, for code that gdb cannot unwind, from a function's first instruction on. The
        callers are the initial caller and those of the stepped calls that have not returned."""
        inferior = gdb.selected_inferior()
        word = lambda at: struct.unpack("<Q", bytes(inferior.read_memory(at, 8)))[0]
        register = lambda name: int(gdb.newest_frame().read_register(name))
        callers = [(register("rsp"), word(register("rsp")))]
        for n in range(count):
            if n % every == 0:
                self.stop([address for _, address in reversed(callers)])
            text = gdb.execute("x/i $pc", to_string=True).split(":", 1)[1].split()
            gdb.execute("stepi", to_string=True)
            sp = register("rsp")
            if text[0] == "call":
                callers.append((sp, word(sp)))
            while callers and callers[-1][0] < sp:
                callers.pop()

    def run_to(self, place):
        gdb.execute("tbreak " + place, to_string=True)
        gdb.execute("continue" if gdb.selected_inferior().pid else "run", to_string=True)

    def done(self):
        self.out.write(u64(END))
        self.out.close()
        gdb.execute("kill", to_string=True)
        gdb.execute("quit 0")
