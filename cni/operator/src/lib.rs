//! Kubernetes operator: controllers and webhooks
