//! L4 and L7 proxy, in a cluster or as a public exit
