// Package metrics is what Prometheus is told about backups. It asks nobody: what
// is known of the cluster is handed to it, and it answers at once.
package metrics
