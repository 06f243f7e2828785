//! Links, routes and neighbours from the kernel.
