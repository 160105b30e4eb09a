"""Many processes: batch normalization over MPI, and statistics of Dask arrays. The core does not import this room;
mpi4py and dask are imported at their first use."""
