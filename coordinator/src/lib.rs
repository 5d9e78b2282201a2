//! Who is in the mesh and what each may know
