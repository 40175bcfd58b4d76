package activities

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"

	"go.temporal.io/sdk/activity"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/command"
	"github.com/ammonite-backup/ammonite/internal/mount"
	"github.com/ammonite-backup/ammonite/internal/restore"
)

// DiskWriter writes disks into images.
type DiskWriter interface {
	// Write writes the disk of a QCOW2 stream, by a program that run runs.
	Write(ctx context.Context, run command.Runner, q DiskWrite, stream io.Reader, progress func(backup.Progress)) (restore.Result, error)
}

// DiskWrite says which image is written, and how.
type DiskWrite struct {
	Image backup.Image `json:"image"`
	// InPlace is the run of a restore in place, of which only what differs is written. It
	// is empty for an image that is all zeros.
	InPlace string `json:"inPlace,omitempty"`
	// Verify reads again what was written.
	Verify bool `json:"verify,omitempty"`
}

// Format makes the filesystem on the device of a restore. A repeat, and an attempt after
// one whose node was lost, leave one that is sound as it is: what was restored into it is
// gone on with.
func (n *Node) Format(ctx context.Context, in StepInput) error {
	again := in.Lease.Attempt > 1 || activity.GetInfo(ctx).Attempt > 1
	return n.step(ctx, in, func(ctx context.Context, h *heldSlot, _ Access) error {
		if err := h.mapped(); err != nil {
			return err
		}
		if again {
			there, err := mount.Holds(ctx, h.place, h.device, in.Volume.FSType)
			if err != nil {
				return err
			}
			if there {
				_, err := mount.Fsck(ctx, h.place, h.device, in.Volume.FSType)
				if backup.ClassOf(err) != backup.FilesystemDamaged {
					return err
				}
			}
		}
		return mount.Format(ctx, h.place, h.device, in.Volume.FSType)
	})
}

// mountSubvolume mounts what a restore writes into. Another client than the one that the
// control side shuts out when a node is lost must not write, which is a final failure.
func (in StepInput) mountSubvolume(ctx context.Context, h *heldSlot, access Access) error {
	if access.Writer != in.Writer {
		return backup.Fail(backup.InvalidInput, fmt.Sprintf("nodes write as client.%s, and control workers shut out client.%s", access.Writer, in.Writer),
			"Set AMMONITE_CEPH_RESTORE_USER to the same on all workers.", nil)
	}
	return access.Subvolume.Writable(ctx, h.place, in.Volume.Subvolume, h.dir, backup.DataPath)
}

// Flush has Ceph store what was restored into the mounted subvolume, and takes the mount
// away. A repeat goes on. That something will never be stored is a LeaseLost failure, after
// which another attempt goes on with what there is.
func (n *Node) Flush(ctx context.Context, in StepInput) error {
	return n.step(ctx, in, func(ctx context.Context, h *heldSlot, access Access) error {
		err := access.Subvolume.Flush(ctx, h.place, h.dir, backup.DataPath)
		if errors.Is(err, mount.ErrUnstored) && ctx.Err() == nil {
			h.end(errBroken)
			return backup.Fail(backup.LeaseLost, "writing to the subvolume", "The restore goes on by itself.", err)
		}
		return err
	})
}

// CheckFilesystem checks the filesystem on the device of a restore, which is not mounted,
// thoroughly, and changes nothing.
func (n *Node) CheckFilesystem(ctx context.Context, in StepInput) error {
	return n.step(ctx, in, func(ctx context.Context, h *heldSlot, _ Access) error {
		if err := h.mapped(); err != nil {
			return err
		}
		return mount.Check(ctx, h.place, h.device, in.Volume.FSType)
	})
}

// RestoreInput says what is restored into the volume.
type RestoreInput struct {
	StepInput
	// Backup is the ID of the backup.
	Backup string `json:"backup"`
	// Path, Include and Exclude choose files; see restore.DirectoryRequest.
	Path     string   `json:"path,omitempty"`
	Include  []string `json:"include,omitempty"`
	Exclude  []string `json:"exclude,omitempty"`
	NoVerify bool     `json:"noVerify,omitempty"`
	// InPlace is set when the volume holds data already: it becomes what the backup is.
	InPlace bool `json:"inPlace,omitempty"`
}

// Restore writes the files of a backup into the mounted filesystem, or its disk into the
// image. A repeat goes on with the files that are there, and begins a disk anew.
//
// Files that the volume did not take as they are in the backup are listed in the result,
// and no error; a volume that is too small for them is an InvalidInput failure.
func (n *Node) Restore(ctx context.Context, in RestoreInput) (restore.Result, error) {
	h, err := n.slots.holding(in.Lease)
	if err != nil {
		return restore.Result{}, toFailure(err)
	}
	ctx, leave := h.enter(ctx)
	defer leave()
	track := newTracker(ctx, "Restore")
	ctx, stopWatching := n.watch(ctx, track)
	defer stopWatching()
	result, err := n.restore(ctx, h, in, track)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	if err != nil && !handlings[backup.ClassOf(err)].final && !cancelled(err) {
		err = track.failed(ctx, err, n.settings.Patience)
	}
	return result, toFailure(err)
}

func (n *Node) restore(ctx context.Context, h *heldSlot, in RestoreInput, track *tracker) (restore.Result, error) {
	repository, err := n.repositories(in.Repository)
	if err != nil {
		return restore.Result{}, err
	}
	access, err := n.access(in.Volume.ClusterID)
	if err != nil {
		return restore.Result{}, err
	}
	if in.Volume.Kind.Mounted() && h.place == nil {
		return restore.Result{}, leaseLost(in.Lease, nil)
	}
	if err := h.occupy(ctx, n.openPlace); err != nil {
		return restore.Result{}, err
	}
	from := restore.Source{Repository: repository, Run: h.place, ID: in.Backup}
	if !in.Volume.Kind.Mounted() {
		write := DiskWrite{Image: in.Clone, Verify: !in.NoVerify}
		if in.InPlace {
			write.InPlace = in.Lease.Run
		}
		return restore.Through(ctx, from, func(ctx context.Context, stream *os.File) (restore.Result, error) {
			return access.Disk.Write(ctx, h.place, write, stream, track.advance)
		})
	}
	result, err := restore.Directory(ctx, from, restore.DirectoryRequest{
		Path: in.Path, Include: in.Include, Exclude: in.Exclude, Target: backup.DataPath, Root: h.place.Root(), Own: true, Exact: in.InPlace,
		Wraps: in.Volume.Kind == backup.KindCephFS, Verify: !in.NoVerify,
	}, track.advance)
	if err != nil {
		return result, err
	}
	for _, entry := range result.Failed {
		if noRoom.MatchString(entry) {
			remedy := "Restore to a larger one, with --size."
			if in.InPlace {
				remedy = "Make the claim larger, or restore to a new one."
			}
			return result, backup.Fail(backup.InvalidInput, fmt.Sprintf("the volume of %d bytes is too small for what is restored", in.Volume.SizeBytes), remedy, nil)
		}
	}
	if result.FailedCount > 0 && in.readable(ctx, h, access) != nil {
		h.end(errBroken)
		return result, backup.Fail(backup.LeaseLost, "the mapping of the volume broke while it was written", "The restore goes on by itself.", nil)
	}
	return result, nil
}

// readable returns an error unless what is written to still answers.
func (in RestoreInput) readable(ctx context.Context, h *heldSlot, access Access) error {
	if in.Volume.Kind == backup.KindCephFS {
		return access.Subvolume.Readable(ctx, h.place, backup.DataPath)
	}
	return mount.Readable(ctx, h.place, h.device)
}

// noRoom is what a filesystem says that is full.
var noRoom = regexp.MustCompile(`no space left on device|disk quota exceeded`)
