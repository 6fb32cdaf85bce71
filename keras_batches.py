"""`PairBatches`, from photos or from stored activations, as Keras wants them."""

import contextlib

import keras


class KerasBatches(keras.utils.PyDataset):
    """Hands `PairBatches` to Keras: on threads, in order, a few batches ahead.

    Args:
        pairs: `PairBatches`.
        heads: names of the outputs; decides which inputs and labels are passed.
        workers: threads.
        store: `ActivationStore` of the same photos; no photo is read then.
    """

    def __init__(self, pairs, heads, workers, store=None):
        # A row of a store is a megabyte, and its reading is all but free.
        workers = min(workers, 2) if store else workers
        super().__init__(workers=workers, max_queue_size=workers + 2)
        self.pairs = pairs
        self.heads = heads
        self.store = store
        self.error = None

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, step):
        try:
            return self.batch(step)
        except Exception as error:
            self.error = error
            raise

    @contextlib.contextmanager
    def own_errors(self):
        """Raises what a batch raised, which TensorFlow hides in an error of its own."""
        try:
            yield
        except Exception as error:
            if self.error is None or self.error is error:
                raise
            raise self.error from error

    def batch(self, step):
        """Inputs and labels of a step, for the heads that the model has."""
        if self.store:
            indices, partner, labels = self.pairs.pairs(step)
            inputs = {
                "activation": self.store.read(indices, self.pairs.mirrored(step)),
                "partner": partner,
            }
        else:
            inputs, labels = self.pairs[step]
        if "bin_out" not in self.heads:
            del inputs["partner"]
        return inputs, {head: labels[head] for head in self.heads}
