package main

import (
	"fmt"
	"log/slog"

	tlog "go.temporal.io/sdk/log"
	"go.uber.org/zap"
	"go.uber.org/zap/exp/zapslog"
	"go.uber.org/zap/zapcore"
)

// newLogger makes the worker's logger. It writes to standard error.
func newLogger(level, format string) (*zap.Logger, error) {
	c := zap.NewProductionConfig()
	c.Sampling = nil
	c.EncoderConfig.EncodeTime = zapcore.ISO8601TimeEncoder
	if format == "console" {
		c.Encoding = "console"
	}
	var err error
	if c.Level, err = zap.ParseAtomicLevel(level); err != nil {
		return nil, fmt.Errorf("AMMONITE_LOG_LEVEL: %w", err)
	}
	return c.Build(zap.AddStacktrace(zapcore.DPanicLevel))
}

// temporalLogger lets the SDK log through zap.
func temporalLogger(log *zap.Logger) tlog.Logger {
	return tlog.NewStructuredLogger(slog.New(zapslog.NewHandler(log.Core(), zapslog.AddStacktraceAt(slog.Level(100)))))
}
