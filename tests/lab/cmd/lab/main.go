// Command lab brings up, inspects and takes down a lab.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/ammonite-backup/ammonite/tests/lab"
)

const usage = `Usage: lab COMMAND [flags]

Commands:
  up      bring up the lab, or those parts of it that are down
  down    take down the lab with all that it made
  status  say which parts of the lab answer
  env     print the shell code that makes the lab reachable

Flags:
  --dir DIR      the lab's directory (default: .lab in the repository)
  --foreground   with up: stay, and take the lab down upon Ctrl-C
  --keep         with down: leave logs and state
  --all          with down: the labs of killed tests as well
`

type flags struct {
	dir        string
	foreground bool
	keep       bool
	all        bool
}

func main() {
	if len(os.Args) < 2 {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	var f flags
	set := flag.NewFlagSet("lab", flag.ContinueOnError)
	set.Usage = func() { fmt.Fprint(os.Stderr, usage) }
	set.StringVar(&f.dir, "dir", "", "")
	set.BoolVar(&f.foreground, "foreground", false, "")
	set.BoolVar(&f.keep, "keep", false, "")
	set.BoolVar(&f.all, "all", false, "")
	if err := set.Parse(os.Args[2:]); err != nil {
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1], f); err != nil {
		stop()
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, command string, f flags) error {
	switch command {
	case "up":
		return up(ctx, f)
	case "down":
		return down(ctx, f)
	case "status":
		return status(ctx, f)
	case "env":
		return env(f)
	}
	fmt.Fprint(os.Stderr, usage)
	return fmt.Errorf("there is no command %q", command)
}

func up(ctx context.Context, f flags) error {
	start := time.Now()
	l, err := lab.Up(ctx, lab.Options{Dir: f.dir, Log: os.Stdout})
	if err != nil && f.foreground {
		return errors.Join(err, lab.Down(context.WithoutCancel(ctx), lab.Options{Dir: f.dir, Keep: true, Log: os.Stdout}))
	}
	if err != nil {
		return err
	}
	fmt.Printf("\nThe lab is up after %.0f s. To reach it:  . %s\nTemporal's UI: %s\n",
		time.Since(start).Seconds(), l.EnvFile(), l.UIAddress)
	if !f.foreground {
		return nil
	}
	fmt.Println("Ctrl-C takes it down.")
	<-ctx.Done()
	return l.Down(context.WithoutCancel(ctx))
}

func down(ctx context.Context, f flags) error {
	var errs []error
	if f.all {
		dirs, err := lab.TestLabs(f.dir)
		if err != nil {
			return err
		}
		for _, dir := range dirs {
			errs = append(errs, lab.Down(ctx, lab.Options{Dir: dir, Keep: f.keep, Log: os.Stdout}))
		}
	}
	return errors.Join(append(errs, lab.Down(ctx, lab.Options{Dir: f.dir, Keep: f.keep, Log: os.Stdout}))...)
}

func status(ctx context.Context, f flags) error {
	l, err := lab.Open(f.dir)
	if err != nil {
		return err
	}
	broken := 0
	for _, part := range lab.Parts() {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		err := l.Answers(ctx, part)
		cancel()
		if err != nil {
			broken++
			fmt.Printf("%-26s down: %v\n", part, err)
			continue
		}
		fmt.Printf("%-26s up\n", part)
	}
	if broken > 0 {
		return fmt.Errorf("%d parts do not answer: lab up starts them again", broken)
	}
	return nil
}

func env(f flags) error {
	l, err := lab.Open(f.dir)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(l.EnvFile())
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(data)
	return err
}
