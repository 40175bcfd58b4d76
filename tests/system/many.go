package system

import (
	"context"

	"github.com/ammonite-backup/ammonite/tests/lab"
)

// CreateVolumes makes many volumes at once. Close deletes them.
func (s *System) CreateVolumes(ctx context.Context, spec lab.ManySpec) ([]*lab.Volume, error) {
	made, err := s.Lab.CreateVolumes(ctx, spec)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.many = append(s.many, made...)
	return made, nil
}

func (s *System) deleteMany(ctx context.Context) error {
	if len(s.many) == 0 {
		return nil
	}
	return s.Lab.DeleteVolumes(ctx, s.many)
}
