package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"syscall"
	"time"

	"github.com/ammonite-backup/ammonite/tests/lab"
	"github.com/ammonite-backup/ammonite/tests/system"
)

// allocated is how much data the sparse disks hold.
const allocated = 1 << 30

// sparse compares the streams of two disks with as much data, of which one is 128
// times as large: its holes may cost neither time nor memory.
func (b *bench) sparse(ctx context.Context) (err error) {
	s, err := b.install(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close(context.WithoutCancel(ctx))) }()
	var memory [2][]int64
	var sides [2]side
	for i, size := range []int64{1 << 40, 8 << 30} {
		v, err := b.sparseDisk(ctx, s, size)
		if err != nil {
			return err
		}
		sides[i] = side{fmt.Sprintf("1 GiB in %d GiB", size>>30), func(context.Context) (time.Duration, error) {
			cmd, err := s.StreamDisk(v, snapshot)
			if err != nil {
				return 0, err
			}
			took, err := timed(cmd.Run)
			memory[i] = append(memory[i], peak(cmd))
			return took, err
		}}
	}
	large, small, err := b.pair(ctx, sides[0], sides[1])
	if err != nil {
		return err
	}
	report("stream-of-1TiB/stream-of-8GiB", float64(large)/float64(small), "<=", 1.2)
	report("memory-of-1TiB/memory-of-8GiB", float64(median(memory[0]))/float64(median(memory[1])), "<=", 1.1)
	return nil
}

func (b *bench) sparseDisk(ctx context.Context, s *system.System, size int64) (*lab.Volume, error) {
	v, err := s.CreateVolume(ctx, lab.VolumeSpec{Namespace: "bench", Claim: fmt.Sprintf("sparse-%d", size>>30), Block: true, Size: size})
	if err != nil {
		return nil, err
	}
	// In eight pieces, the last of them at the end.
	const pieces = 8
	for i := range int64(pieces) {
		offset := (size - allocated/pieces) / (pieces - 1) * i &^ 0xfff
		if err := s.ChangeDisk(ctx, v, fmt.Sprintf("write -P %d %d %d", i+1, offset, allocated/pieces)); err != nil {
			return nil, err
		}
	}
	_, err = b.lab.Run(ctx, "rbd", "snap", "create", "--no-progress", v.Spec()+"@"+snapshot)
	return v, err
}

// peak is the most memory that a program that has ended had resident, in KiB. It
// varies with the buffers of librbd.
func peak(cmd *exec.Cmd) int64 {
	usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok {
		return 0
	}
	return usage.Maxrss
}
