//! Names: zones, views, lookup, forwarder
