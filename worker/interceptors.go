//go:build !faults

package main

import "go.temporal.io/sdk/interceptor"

// interceptors are those of the workers; the build that tests inject faults
// with has one.
func interceptors() []interceptor.WorkerInterceptor { return nil }
