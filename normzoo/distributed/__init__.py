"""Many processes: batch normalization over MPI, and statistics of Dask arrays. The core does not import this room, and
mpi4py and dask are imported when they are first used."""
