package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
	"strconv"
	"strings"
)

// AdoptVolume returns the volume of a claim that the lab has not made, on an image of
// its own Ceph that the PersistentVolume names as a static one.
func (l *Lab) AdoptVolume(ctx context.Context, namespace, claim string) (*Volume, error) {
	pv, csi, err := l.staticVolume(ctx, namespace, claim)
	if err != nil {
		return nil, err
	}
	v := l.newVolume(VolumeSpec{Namespace: namespace, Claim: claim, FSType: csi.FSType, Block: csi.FSType == "", RadosNamespace: csi.Attributes["radosNamespace"]})
	v.PV, v.Pool, v.Image = pv, csi.Attributes["pool"], csi.Handle
	var info struct {
		Size int64 `json:"size"`
	}
	err = v.Ceph.runJSON(ctx, &info, "rbd", "info", "--format", "json", v.Spec())
	v.Size = info.Size
	return v, err
}

// AdoptSubvolume is AdoptVolume for a subvolume.
func (l *Lab) AdoptSubvolume(ctx context.Context, namespace, claim string) (*Subvolume, error) {
	pv, csi, err := l.staticVolume(ctx, namespace, claim)
	if err != nil {
		return nil, err
	}
	v := l.newSubvolume(SubvolumeSpec{Namespace: namespace, Claim: claim})
	v.PV, v.Path, v.uuid = pv, csi.Attributes["rootPath"], ""
	v.Name = path.Base(path.Dir(v.Path))
	var info struct {
		Quota int64 `json:"bytes_quota"`
	}
	err = v.ceph.runJSON(ctx, &info, "ceph", "fs", "subvolume", "info", Filesystem, v.Name, "--group_name", v.Group)
	v.Size = info.Quota
	return v, err
}

// staticSource is what a static PersistentVolume says of its volume.
type staticSource struct {
	Handle     string            `json:"volumeHandle"`
	FSType     string            `json:"fsType"`
	Attributes map[string]string `json:"volumeAttributes"`
}

// staticVolume reads the PersistentVolume of a claim.
func (l *Lab) staticVolume(ctx context.Context, namespace, claim string) (pv string, csi staticSource, err error) {
	name, err := l.Run(ctx, "kubectl", "-n", namespace, "get", "pvc", claim, "-o", "jsonpath={.spec.volumeName}")
	if err != nil {
		return "", csi, err
	}
	pv = strings.TrimSpace(name)
	out, err := l.Run(ctx, "kubectl", "get", "pv", pv, "-o", "json")
	if err != nil {
		return pv, csi, err
	}
	var object struct {
		Spec struct {
			CSI staticSource `json:"csi"`
		} `json:"spec"`
	}
	if err := json.Unmarshal([]byte(out), &object); err != nil {
		return pv, csi, fmt.Errorf("reading volume %s: %w", pv, err)
	}
	csi = object.Spec.CSI
	if static, _ := strconv.ParseBool(csi.Attributes["staticVolume"]); !static {
		return pv, csi, fmt.Errorf("volume %s is not static", pv)
	}
	return pv, csi, nil
}
