"""The compiled engine: three products on one micro-kernel, two phases a step, one compiled call an epoch.

* `simd` writes LLVM IR: the register-blocked micro-kernel C[M, lanes] += A[k, M] B[k, lanes], transposes, views.
* `products` puts panels around it. Forward, backward-data and weight gradient are the same product, with the
  contraction as the slow index of B:

      product           M            lanes        contraction  A               B
      Z = W . A         output unit  batch row    input unit   W[in][out]      A[in][row]
      dA = W . dZ       input unit   batch row    output unit  W[in][out]      dZ[out][row]
      dW = A . dZ       input unit   output unit  batch row    A[in][row]      dZ[row][out]

  A is read one element at a time, so that backward-data takes W as it lies, along the other index.
* `sparse` trains the first layer on sparse rows: forward from rows of W, the gradient from entries sorted by tile.
* `activations`, `losses`, `optimizers` are registries: one file each to add a thing. Codes are branched on outside
  the inner loops, so one compilation per dtype serves every network.
* `step` is the rows phase and the weights phase, in parts that are compiled at once; `epoch` goes through them.
* `forward` is prediction, an entry point of its own, with lanes along the units.
* `shuffle` draws orders of rows as NumPy does; `listening` makes calls during which Ctrl-C is seen.
* `width` is how wide vectors are; `inner` and `lowering` are how Numba makes LLVM IR of all this.
* `room` asks whether memory is left, where LLVM and the C library would end the process; `collector` leaves Python's
  collections out; `forks` has a fork wait for the compiler.
* `team` lets several threads go through the same compiled code, taking slices of each phase.

Threads share out rows, then tiles of weights, and no sum is ever split between them: results are the same bits for
any number of threads. Subnormal numbers count as zero. Words: *lane*, an element of a vector; *panel*, up to three
vectors side by side; *tile*, a panel of inputs by a panel of outputs; *block*, the rows that go through all layers
together; *slice*, what one thread takes of a phase.
"""
