package backup

// What ceph-k8s-backup, whose users Ammonite takes over, calls what it makes of an image:
// a snapshot, which it protects, and a clone of that in the same pool.
const (
	PredecessorSnapshot    = "backup"
	predecessorClonePrefix = "backup-"
	// PredecessorLabel is on its Jobs, and on the claims and volumes that it makes for
	// them, below the prefix of annotations.
	PredecessorLabel = "volume-type"
)

// PredecessorClone is the clone of an image.
func PredecessorClone(image Image) Image {
	image.Name = predecessorClonePrefix + image.Name
	return image
}

// PredecessorRemnant is a snapshot that the predecessor left behind, with its clone.
type PredecessorRemnant struct {
	// Image is whose snapshot it is, and ID the image's: it may be in the trash.
	Image Image  `json:"image"`
	ID    string `json:"id"`
	// Cloned says that its clone is there, too.
	Cloned bool `json:"cloned,omitempty"`
	// Others are clones that are called otherwise. Nothing is removed while there are
	// any.
	Others []string `json:"others,omitempty"`
}

// String says what it is.
func (r PredecessorRemnant) String() string {
	text := "snapshot " + r.Image.String() + "@" + PredecessorSnapshot
	if r.Cloned {
		text += " and its clone " + PredecessorClone(r.Image).String()
	}
	return text
}
