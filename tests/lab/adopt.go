package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// AdoptVolume returns the volume of a claim that the lab has not made, on an image of
// its own Ceph that the PersistentVolume names as a static one.
func (l *Lab) AdoptVolume(ctx context.Context, namespace, claim string) (*Volume, error) {
	name, err := l.Run(ctx, "kubectl", "-n", namespace, "get", "pvc", claim, "-o", "jsonpath={.spec.volumeName}")
	if err != nil {
		return nil, err
	}
	out, err := l.Run(ctx, "kubectl", "get", "pv", strings.TrimSpace(name), "-o", "json")
	if err != nil {
		return nil, err
	}
	var pv struct {
		Spec struct {
			CSI struct {
				Handle     string            `json:"volumeHandle"`
				FSType     string            `json:"fsType"`
				Attributes map[string]string `json:"volumeAttributes"`
			} `json:"csi"`
		} `json:"spec"`
	}
	if err := json.Unmarshal([]byte(out), &pv); err != nil {
		return nil, fmt.Errorf("reading volume %s: %w", name, err)
	}
	csi := pv.Spec.CSI
	if static, _ := strconv.ParseBool(csi.Attributes["staticVolume"]); !static {
		return nil, fmt.Errorf("volume %s is not static", name)
	}
	v := l.newVolume(VolumeSpec{Namespace: namespace, Claim: claim, FSType: csi.FSType, Block: csi.FSType == "", RadosNamespace: csi.Attributes["radosNamespace"]})
	v.PV, v.Pool, v.Image = strings.TrimSpace(name), csi.Attributes["pool"], csi.Handle
	var info struct {
		Size int64 `json:"size"`
	}
	err = v.Ceph.runJSON(ctx, &info, "rbd", "info", "--format", "json", v.Spec())
	v.Size = info.Size
	return v, err
}
