package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
)

// ManySpec says what many small volumes are like that are made at once.
type ManySpec struct {
	// Namespaces are made, with the annotations that each is to have. All volumes
	// are in these.
	Namespaces map[string]map[string]string
	// Volumes must have an Import each. All that comes by way of the
	// PersistentVolume is as CreateVolume has it, Edit too.
	Volumes []VolumeSpec
}

// manyLabel is on all objects of volumes that were made at once.
const manyLabel = "ammonite-lab"

// CreateVolumes makes many volumes in the time that CreateVolume needs for a few.
// They have no entries in ceph-csi's journal, which nobody reads of an image that
// its PersistentVolume names. DeleteVolumes deletes them.
func (l *Lab) CreateVolumes(ctx context.Context, spec ManySpec) ([]*Volume, error) {
	var volumes []*Volume
	for _, s := range spec.Volumes {
		if s.Import == "" {
			return nil, fmt.Errorf("volume %s/%s: many volumes are made of files only, and this one has no Import", s.Namespace, s.Claim)
		}
		volumes = append(volumes, l.newVolume(s))
	}
	err := concurrently(ctx,
		func(ctx context.Context) error {
			return inParallel(ctx, len(volumes), func(ctx context.Context, i int) error {
				return volumes[i].makeImage(ctx, spec.Volumes[i])
			})
		},
		func(ctx context.Context) error { return l.bindAll(ctx, spec, volumes) },
	)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make %d volumes: %w", len(volumes), err), l.DeleteVolumes(context.WithoutCancel(ctx), volumes))
	}
	return volumes, nil
}

// bindAll makes all objects by one command, and waits until all claims are bound.
func (l *Lab) bindAll(ctx context.Context, spec ManySpec, volumes []*Volume) error {
	pools := map[string]int{}
	var objects []Object
	for _, name := range slices.Sorted(maps.Keys(spec.Namespaces)) {
		objects = append(objects, Object{"apiVersion": "v1", "kind": "Namespace", "metadata": Object{
			"name": name, "annotations": spec.Namespaces[name], "labels": Object{manyLabel: "many"},
		}})
	}
	for i, v := range volumes {
		if _, known := pools[v.Pool]; !known {
			number, err := v.poolNumber(ctx)
			if err != nil {
				return err
			}
			pools[v.Pool] = number
		}
		b := v.binding(spec.Volumes[i], pools[v.Pool])
		pv, claim := b.objects()
		if b.edit != nil {
			b.edit(pv, claim)
		}
		for _, o := range []Object{pv, claim} {
			o.Set("many", "metadata", "labels", manyLabel)
			objects = append(objects, o)
		}
	}
	data, err := json.Marshal(Object{"apiVersion": "v1", "kind": "List", "items": objects})
	if err != nil {
		return err
	}
	if _, err := l.runWithInput(ctx, string(data), "kubectl", "create", "-f", "-"); err != nil {
		return err
	}
	return inParallel(ctx, len(spec.Namespaces), func(ctx context.Context, i int) error {
		namespace := slices.Sorted(maps.Keys(spec.Namespaces))[i]
		_, err := l.Run(ctx, "kubectl", "-n", namespace, "wait", "--for=jsonpath={.status.phase}=Bound", "--timeout=180s", "pvc", "--all")
		if err != nil && strings.Contains(err.Error(), "no matching resources") {
			return nil
		}
		return err
	})
}

// DeleteVolumes deletes the claims, PersistentVolumes and images of volumes that
// CreateVolumes made, and leaves their namespaces. What a test has removed itself
// is not missed.
func (l *Lab) DeleteVolumes(ctx context.Context, volumes []*Volume) error {
	var objects []Object
	for _, v := range volumes {
		objects = append(objects,
			Object{"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": Object{"namespace": v.Namespace, "name": v.Claim}},
			Object{"apiVersion": "v1", "kind": "PersistentVolume", "metadata": Object{"name": v.PV}})
	}
	data, err := json.Marshal(Object{"apiVersion": "v1", "kind": "List", "items": objects})
	if err != nil {
		return err
	}
	_, err = l.runWithInput(ctx, string(data), "kubectl", "delete", "-f", "-", "--ignore-not-found", "--timeout=120s")
	return errors.Join(err, inParallel(ctx, len(volumes), func(ctx context.Context, i int) error {
		return volumes[i].removeImageQuickly(ctx)
	}))
}

// removeImageQuickly is removeImage by one command for what most images are in the
// end: without snapshots, and with nothing made of them.
func (v *Volume) removeImageQuickly(ctx context.Context) error {
	if v.rbd(ctx, "rm", "--no-progress", v.Spec()) == nil {
		return nil
	}
	return v.removeImage(ctx)
}

// inParallel calls do for each number below n, a few at a time, and returns the
// first error.
func inParallel(ctx context.Context, n int, do func(ctx context.Context, i int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	// Commands wait for Ceph and the API about as long as they compute.
	group.SetLimit(3 * runtime.NumCPU())
	for i := range n {
		group.Go(func() error {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return do(ctx, i)
		})
	}
	return group.Wait()
}
