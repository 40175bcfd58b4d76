// Command temporal-server is the lab's Temporal: every service of the server
// and its UI in one process, with its state in a SQLite file that survives a
// restart and a kill.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"go.temporal.io/server/common/authorization"
	"go.temporal.io/server/common/log"
	"go.temporal.io/server/temporal"
)

// options are the command's flags.
type options struct {
	Database   string
	Namespaces []string
	Frontend   int
	History    int
	Matching   int
	Worker     int
	UI         int
	LogLevel   string
}

func parseOptions(args []string) (options, error) {
	var opts options
	var namespaces string
	flags := flag.NewFlagSet("temporal-server", flag.ContinueOnError)
	flags.StringVar(&opts.Database, "db", "", "SQLite file, made when missing")
	flags.StringVar(&namespaces, "namespaces", "default", "namespaces to register, separated by commas")
	flags.IntVar(&opts.Frontend, "frontend-port", 7233, "port of the frontend, which clients use")
	flags.IntVar(&opts.History, "history-port", 7234, "port of the history service")
	flags.IntVar(&opts.Matching, "matching-port", 7235, "port of the matching service")
	flags.IntVar(&opts.Worker, "worker-port", 7239, "port of the system's own worker")
	flags.IntVar(&opts.UI, "ui-port", 8233, "port of the web UI")
	flags.StringVar(&opts.LogLevel, "log-level", "warn", "least level to log: debug, info, warn or error")
	if err := flags.Parse(args); err != nil {
		return opts, err
	}
	if opts.Database == "" {
		return opts, fmt.Errorf("no SQLite file: give one with -db")
	}
	opts.Namespaces = strings.Split(namespaces, ",")
	return opts, nil
}

func run(opts options) error {
	cfg := serverConfig(opts)
	if err := prepareDatabase(cfg, opts); err != nil {
		return err
	}
	server, err := temporal.NewServer(
		temporal.WithConfig(cfg),
		temporal.ForServices(temporal.DefaultServices),
		temporal.WithStaticHosts(staticHosts(opts)),
		temporal.WithDynamicConfigClient(dynamicConfig()),
		temporal.WithAuthorizer(authorization.NewNoopAuthorizer()),
		temporal.WithLogger(log.NewZapLogger(log.BuildZapLogger(log.Config{Stdout: true, Level: opts.LogLevel}))),
	)
	if err != nil {
		return fmt.Errorf("set up the Temporal server: %w", err)
	}
	if err := server.Start(); err != nil {
		return fmt.Errorf("start the Temporal server: %w", err)
	}
	defer func() { _ = server.Stop() }()

	ended := make(chan error, 1)
	go func() { ended <- serveUI(opts) }()
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
	select {
	case err := <-ended:
		return fmt.Errorf("serve the Temporal UI: %w", err)
	case <-stop:
		return nil
	}
}

func main() {
	opts, err := parseOptions(os.Args[1:])
	if err == nil {
		err = run(opts)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "temporal-server:", err)
		os.Exit(1)
	}
}
