//! Ciphertext forwarder and STUN server
