"""The integers that describe a network to the kernels: one row of fields per layer, one row of fields for the rest.

All offsets count elements from the start of the buffer they point into. `fastnn.layout` fills the fields in.
"""

# Fields of layers_of[block, l], one row per weight matrix; blocks of a narrow network share their scratch.
(
    N_IN,  # units going in
    N_OUT,  # units coming out
    ACTIVATION,  # code of the activation of the units coming out; the last layer has an output function instead
    WEIGHTS,  # params: the panels of W, bias row included
    DELTA_ROWS,  # rows: this layer's delta by row
    INPUT_UNITS,  # scratch: this layer's input by unit; sparse rows are read where they lie
    OUTPUT_UNITS,  # scratch: this layer's output by unit, which is the next layer's input
    N_LAYER_FIELDS,
) = range(8)

# Fields of plan.
(
    OUTPUT,  # code of the output function and its loss
    NARROW,  # 1: gradients by row block within the rows phase; 0: by tile in the weights phase
    BLOCK_ROWS,  # rows carried through all the layers together
    BLOCKS,  # most blocks of a slice
    CAPACITY,  # rows whose activations are held at once; a larger batch is taken in several rounds
    SCRATCH,  # elements of scratch per slice
    DELTA_A,  # scratch: the delta of every other layer by unit
    DELTA_B,  # scratch: the delta of the layers between
    TARGET,  # scratch: the targets of the block by unit
    WEIGHT,  # scratch: the sample weights of the block
    WORK,  # scratch: working rows of the losses
    TILE,  # scratch: one tile of gradients
    N_PARAMS,  # elements of params
    BUCKETS,  # buckets: distance between the starts that one slice of sparse rows and the next one have
    ENTRIES,  # buckets: the places of the entries of all slices
    N_FIELDS,
) = range(16)

# Fields of tiles[i]: one rectangle of one weight matrix, the unit of work of the weights phase.
(
    TILE_LAYER,
    TILE_IN,  # first input unit
    TILE_IN_WIDTH,  # width of its panel of input units
    TILE_OUT,  # first output unit
    TILE_OUT_WIDTH,  # width of its panel of output units
) = range(5)
