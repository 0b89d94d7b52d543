"""Time of each block, and the most anonymous memory, while a model is quantised."""

import threading
import time


class AnonymousPeak:
    """Looks a hundred times a second: the system keeps no peak of it."""

    def __init__(self):
        self.bytes = 0
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.look, daemon=True)
        self.thread.start()

    def look(self):
        while not self.ended.wait(0.01):
            with open("/proc/self/status", encoding="ascii") as status:
                line = next(line for line in status if line.startswith("RssAnon:"))
            self.bytes = max(self.bytes, int(line.split()[1]) * 1024)

    def end(self):
        self.ended.set()
        self.thread.join()
        return self.bytes


class BlockTimes:
    """A block begins at its first forward pass."""

    def __init__(self, blocks, captures):
        # The first block also hears each batch once while its inputs are captured.
        self.left = [captures] + [0] * (len(blocks) - 1)
        self.starts = [None] * len(blocks)
        for i, block in enumerate(blocks):
            block.register_forward_pre_hook(lambda *_, i=i: self.heard(i))

    def heard(self, i):
        if self.left[i] > 0:
            self.left[i] -= 1
        elif self.starts[i] is None:
            self.starts[i] = time.perf_counter()

    def seconds(self):
        """Of each block but the last, whose end is not heard."""
        return [b - a for a, b in zip(self.starts, self.starts[1:])]
