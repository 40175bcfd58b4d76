package lab

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// imageInfo is what rbd info tells.
type imageInfo struct {
	ID string `json:"id"`
}

func (v *Volume) info(ctx context.Context) (info imageInfo, err error) {
	err = v.Ceph.runJSON(ctx, &info, "rbd", "info", "--format", "json", v.Spec())
	return info, err
}

func (v *Volume) rbd(ctx context.Context, args ...string) error {
	_, err := v.Ceph.Run(ctx, "rbd", args...)
	return err
}

func (v *Volume) makeImage(ctx context.Context, spec VolumeSpec) error {
	if v.RadosNamespace != "" {
		err := v.rbd(ctx, "namespace", "create", v.place())
		if err != nil && !strings.Contains(err.Error(), "exists") {
			return err
		}
	}
	var options []string
	if spec.DataPool != "" {
		options = append(options, "--data-pool", spec.DataPool)
	}
	for _, feature := range spec.Features {
		options = append(options, "--image-feature", feature)
	}
	var err error
	if v.source != nil {
		err = v.clone(ctx, options)
	} else if spec.Import != "" {
		err = v.rbd(ctx, append([]string{"import", "--no-progress", spec.Import, v.Spec()}, options...)...)
	} else {
		err = v.rbd(ctx, append([]string{"create", "--size", fmt.Sprintf("%dB", v.Size), v.Spec()}, options...)...)
	}
	if err != nil {
		return err
	}
	metadata, err := v.metadata(spec)
	if err != nil {
		return err
	}
	for key, value := range metadata {
		if err := v.rbd(ctx, "image-meta", "set", v.Spec(), key, value); err != nil {
			return err
		}
	}
	return nil
}

// clone makes the image as ceph-csi clones a claim: by way of an image between
// the two, which ends up in the trash, where it stays until the clone is gone or
// flattened.
func (v *Volume) clone(ctx context.Context, options []string) error {
	v.source.mu.Lock()
	v.source.cloned = true
	v.source.mu.Unlock()
	between := v.spec(v.between())
	for _, step := range [][]string{
		{"snap", "create", "--no-progress", v.source.Spec() + "@" + v.between()},
		{"clone", v.source.Spec() + "@" + v.between(), between},
		{"snap", "rm", "--no-progress", v.source.Spec() + "@" + v.between()},
		{"snap", "create", "--no-progress", between + "@" + v.Image},
		append([]string{"clone", between + "@" + v.Image, v.Spec()}, options...),
		{"snap", "rm", "--no-progress", between + "@" + v.Image},
		{"trash", "mv", between},
	} {
		if err := v.rbd(ctx, step...); err != nil {
			return err
		}
	}
	return nil
}

// betweenSuffix is how ceph-csi names the image between a clone and its source.
const betweenSuffix = "-temp"

func (v *Volume) between() string { return v.Image + betweenSuffix }

func (v *Volume) removeImage(ctx context.Context) error {
	if err := v.rbd(ctx, "snap", "purge", "--no-progress", v.Spec()); err != nil && !v.gone(ctx) {
		return err
	}
	v.mu.Lock()
	cloned := v.cloned
	v.mu.Unlock()
	command := "rm --no-progress"
	if cloned {
		command = "trash mv"
	}
	if err := v.rbd(ctx, append(strings.Fields(command), v.Spec())...); err != nil && !v.gone(ctx) {
		return err
	}
	return v.emptyTrash(ctx)
}

// gone tells whether a test has removed the image.
func (v *Volume) gone(ctx context.Context) bool {
	_, err := v.info(ctx)
	return err != nil && strings.Contains(err.Error(), "No such file")
}

// emptyTrash removes the images in the trash that nothing depends on any more,
// of those that the volume was made from, nearest first, and the volume's own.
func (v *Volume) emptyTrash(ctx context.Context) error {
	var errs []error
	for of := v; of != nil; of = of.source {
		for _, image := range []string{of.Image, of.between()} {
			errs = append(errs, of.removeTrashed(ctx, image))
		}
	}
	return errors.Join(errs...)
}

func (v *Volume) removeTrashed(ctx context.Context, image string) error {
	entries, err := v.Ceph.trash(ctx, v.place())
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name != image {
			continue
		}
		err := v.rbd(ctx, "trash", "rm", "--no-progress", v.spec(e.ID))
		if err != nil && !strings.Contains(err.Error(), "has snapshots") {
			return err
		}
	}
	return nil
}

// Snapshots lists the names of the image's snapshots.
func (v *Volume) Snapshots(ctx context.Context) ([]string, error) {
	snapshots, err := v.Ceph.snapshots(ctx, v.Spec())
	var names []string
	for _, s := range snapshots {
		names = append(names, s.Name)
	}
	return names, err
}

// Resize changes the size of the live image, also to a smaller one. What is
// mapped keeps the size that it had.
func (v *Volume) Resize(ctx context.Context, size int64) error {
	if err := v.rbd(ctx, "resize", "--no-progress", "--allow-shrink", "--size", fmt.Sprintf("%dB", size), v.Spec()); err != nil {
		return err
	}
	v.Size = size
	return nil
}
