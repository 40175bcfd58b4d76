package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/ammonite-backup/ammonite/activities"
	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/ceph"
	"github.com/ammonite-backup/ammonite/internal/command"
	"github.com/ammonite-backup/ammonite/internal/restore"
)

// writeCommand is what the worker calls itself with to write a disk, which comes as a
// QCOW2 file on standard input, into an image. It is not for people and not in the help.
const writeCommand = "write-disk"

// writeRequest is the command's argument, as JSON. It holds no secrets.
type writeRequest struct {
	Conf string `json:"conf,omitempty"`
	User string `json:"user,omitempty"`
	activities.DiskWrite
}

// writeNews is a line that the command prints: how far it is, and at its end what it
// did.
type writeNews struct {
	Progress *backup.Progress `json:"progress,omitempty"`
	Result   *restore.Result  `json:"result,omitempty"`
	Failed   backup.Message   `json:"failed"`
}

// diskWriter is activities.DiskWriter for the images of a Ceph cluster.
type diskWriter struct{ conf, user string }

// Write is activities.DiskWriter's.
func (d diskWriter) Write(ctx context.Context, run command.Runner, q activities.DiskWrite, stream io.Reader, progress func(backup.Progress)) (restore.Result, error) {
	argument, err := json.Marshal(writeRequest{Conf: d.conf, User: d.user, DiskWrite: q})
	if err != nil {
		return restore.Result{}, err
	}
	program, err := os.Executable()
	if err != nil {
		return restore.Result{}, fmt.Errorf("looking for this program: %w", err)
	}
	env := memoryOfStreams()
	if args := os.Getenv("CEPH_ARGS"); args != "" {
		env = append(env, "CEPH_ARGS="+args)
	}
	var end writeNews
	_, err = run.Run(ctx, command.Command{
		Name: program, Args: []string{writeCommand, string(argument)}, Env: env, Stdin: stream,
		OnLine: func(line []byte) {
			var news writeNews
			switch {
			case json.Unmarshal(line, &news) != nil:
			case news.Progress != nil:
				progress(*news.Progress)
			default:
				end = news
			}
		},
	})
	switch why := end.Failed.Err(); {
	case why != nil:
		return restore.Result{}, why
	case err != nil:
		return restore.Result{}, fmt.Errorf("writing image %s: %w", q.Image, err)
	case end.Result == nil:
		return restore.Result{}, fmt.Errorf("writing image %s: the program ended without a word", q.Image)
	}
	return *end.Result, nil
}

// writeMain is called first thing in main. In a process that is to write a disk it does
// so and never returns; otherwise it does nothing.
func writeMain() {
	if len(os.Args) != 3 || os.Args[1] != writeCommand {
		return
	}
	out := json.NewEncoder(os.Stdout)
	result, err := writeDisk(context.Background(), os.Args[2], os.Stdin, func(p backup.Progress) {
		// Whoever does not listen any more is about to end this process.
		_ = out.Encode(writeNews{Progress: &p})
	})
	end := writeNews{Failed: backup.MessageOf(err)}
	if err == nil {
		end.Result = &result
	}
	if out.Encode(end) != nil || err != nil {
		os.Exit(1)
	}
	os.Exit(0)
}

// newsEvery is how often the command says how far it is.
const newsEvery = time.Second / 2

func writeDisk(ctx context.Context, argument string, stream io.Reader, progress func(backup.Progress)) (result restore.Result, err error) {
	var q writeRequest
	if err := json.Unmarshal([]byte(argument), &q); err != nil {
		return result, fmt.Errorf("reading what to write: %w", err)
	}
	cluster, err := ceph.Connect(ceph.Config{Conf: q.Conf, User: q.User, Streaming: true})
	if err != nil {
		return result, err
	}
	defer cluster.Close()
	var image *ceph.ImageWriter
	if q.InPlace != "" {
		image, err = cluster.OpenVolume(ctx, q.Image, q.InPlace)
	} else {
		image, err = cluster.OpenImage(ctx, q.Image)
	}
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, image.Close()) }()
	var said time.Time
	tell := func(p backup.Progress) {
		if now := time.Now(); now.Sub(said) >= newsEvery {
			said = now
			progress(p)
		}
	}
	if q.InPlace != "" {
		return restore.OntoVolume(ctx, stream, image, q.Verify, tell)
	}
	return restore.ToImage(ctx, stream, image, q.Verify, tell)
}
