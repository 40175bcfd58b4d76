// Command ammonite-worker runs Ammonite's workflows and their steps. Its role
// decides which: control, node, or both.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/ammonite-backup/ammonite/internal/ceph"
	"github.com/ammonite-backup/ammonite/internal/config"
	"github.com/ammonite-backup/ammonite/internal/mount"
	"github.com/ammonite-backup/ammonite/internal/sandbox"
	"github.com/ammonite-backup/ammonite/schedules"
)

// version is set by the linker.
var version = "dev"

func main() {
	// A worker starts itself again as the guard of each sandbox, to speak to Ceph,
	// and to stream and write images.
	sandbox.Main(mount.Release)
	ceph.Main()
	streamMain()
	writeMain()
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "ammonite-worker:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	flags := flag.NewFlagSet("ammonite-worker", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	printVersion := flags.Bool("version", false, "")
	err := flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return usage(out)
	case err != nil:
		return fmt.Errorf("%w; see ammonite-worker --help", err)
	case flags.NArg() > 0:
		return fmt.Errorf("%q is not understood: the worker takes no arguments; see ammonite-worker --help", flags.Arg(0))
	case *printVersion:
		_, err := fmt.Fprintln(out, "ammonite-worker", version)
		return err
	}
	settings, found, err := configuration()
	if err != nil {
		return err
	}
	log, err := newLogger(settings.LogLevel, settings.LogFormat)
	if err != nil {
		return err
	}
	// The first signal begins the drain; a second one ends the process at once.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	return serve(ctx, settings, found, log)
}

// configuration reads all settings, and names everything that is wrong with them
// at once.
func configuration() (settings config.Worker, found repositories, err error) {
	settings, err = config.FromEnvironment()
	found, wrong := findRepositories(settings, os.Environ())
	err = errors.Join(err, wrong)
	if settings.Control() && settings.Schedules != "" {
		_, wrong := schedules.Read(settings.Schedules)
		err = errors.Join(err, wrong)
	}
	return settings, found, err
}

func usage(out io.Writer) error {
	variables, err := config.Usage()
	if err != nil {
		return err
	}
	_, err = fmt.Fprint(out, `ammonite-worker backs up the Ceph volumes behind Kubernetes claims.

It takes no arguments. All settings are environment variables:

`, variables, `
The Temporal server is found by TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE,
TEMPORAL_API_KEY, TEMPORAL_TLS_* and TEMPORAL_CONFIG_FILE, as by the temporal
command. The restic repository is found by RESTIC_REPOSITORY (or _FILE) and
opened by RESTIC_PASSWORD_FILE (or RESTIC_PASSWORD, RESTIC_PASSWORD_COMMAND);
the variables of its storage (AWS_ACCESS_KEY_ID, RESTIC_REST_USERNAME, ...)
reach restic and no other program. AMMONITE_REPOSITORIES adds others.
`)
	return err
}
