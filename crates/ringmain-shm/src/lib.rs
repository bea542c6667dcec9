//! Memory, descriptors and peers: the only crate of Ringmain with unsafe code.
