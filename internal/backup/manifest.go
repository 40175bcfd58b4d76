package backup

import (
	"bytes"
	"compress/flate"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
)

// Manifest is what a claim was asked for as. Backups keep it, so that a claim which is
// gone can be made again as it was.
type Manifest struct {
	StorageClass string            `json:"storageClass,omitempty"`
	AccessModes  []string          `json:"accessModes,omitempty"`
	SizeBytes    uint64            `json:"sizeBytes,omitempty"`
	Labels       map[string]string `json:"labels,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
}

// mostManifest bounds the packed form, in bytes: restic reads the tags of all backups
// whenever it lists them. mostUnpacked bounds what is made of one that a stranger wrote.
const (
	mostManifest = 4 << 10
	mostUnpacked = 1 << 20
)

// Pack returns the manifest as the value of a tag of restic's: JSON (RFC 8259), compressed
// (RFC 1951), in base64url (RFC 4648). Annotations that do not fit are left out, and
// labels after them.
func (m Manifest) Pack() string {
	for _, without := range []func(){func() {}, func() { m.Annotations = nil }, func() { m.Labels = nil }} {
		without()
		if text := m.pack(); len(text) <= mostManifest {
			return text
		}
	}
	return ""
}

func (m Manifest) pack() string {
	// Neither can fail: it is plain data, written to memory.
	data, _ := json.Marshal(m)
	var packed bytes.Buffer
	w, _ := flate.NewWriter(&packed, flate.BestCompression)
	_, _ = w.Write(data)
	_ = w.Close()
	return base64.RawURLEncoding.EncodeToString(packed.Bytes())
}

// UnpackManifest reads what Pack wrote; the zero Manifest for "", as backups have that
// are older or the predecessor's. The error is an InvalidInput failure.
func UnpackManifest(text string) (m Manifest, err error) {
	if text == "" {
		return m, nil
	}
	packed, err := base64.RawURLEncoding.DecodeString(text)
	if err == nil {
		err = json.NewDecoder(io.LimitReader(flate.NewReader(bytes.NewReader(packed)), mostUnpacked)).Decode(&m)
	}
	if err != nil {
		return Manifest{}, Fail(InvalidInput, fmt.Sprintf("the backup's tag %q cannot be read", TagManifest), "", err)
	}
	return m, nil
}
