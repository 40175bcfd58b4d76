package lab

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/crypto/poly1305" //nolint:staticcheck // it is what restic's format uses
	"golang.org/x/crypto/scrypt"
)

// resticKey is a key file of a repository, as restic's design document describes it
// under "Keys, Encryption and MAC".
type resticKey struct {
	Created  string `json:"created"`
	Username string `json:"username"`
	Hostname string `json:"hostname"`
	KDF      string `json:"kdf"`
	N        int    `json:"N"`
	R        int    `json:"r"`
	P        int    `json:"p"`
	Salt     []byte `json:"salt"`
	Data     []byte `json:"data"`
}

// cheapN is of a password that needs no protection: that of a test. restic's own choice
// costs each of its runs half a second of a processor, of which tests have thousands.
const cheapN = 1 << 4

// cheapenKey replaces the one key of a repository by one of the same password that opens
// it at once.
func cheapenKey(dir, password string) error {
	files, err := filepath.Glob(filepath.Join(dir, "keys", "*"))
	if err != nil || len(files) != 1 {
		return errors.Join(fmt.Errorf("%s has %d keys", dir, len(files)), err)
	}
	text, err := os.ReadFile(files[0])
	if err != nil {
		return err
	}
	var key resticKey
	if err := json.Unmarshal(text, &key); err != nil {
		return err
	}
	master, err := key.open(password)
	if err != nil {
		return err
	}
	key.N, key.P = cheapN, 1
	if err := key.seal(password, master); err != nil {
		return err
	}
	if text, err = json.Marshal(key); err != nil {
		return err
	}
	sum := sha256.Sum256(text)
	if err := os.WriteFile(filepath.Join(dir, "keys", hex.EncodeToString(sum[:])), text, 0o600); err != nil {
		return err
	}
	return os.Remove(files[0])
}

const (
	ivSize, macSize, cipherKeySize, macKeySize = 16, 16, 32, 32
)

// derive makes the keys for encryption and authentication from a password.
func (k resticKey) derive(password string) (block cipher.Block, mac [macKeySize]byte, err error) {
	derived, err := scrypt.Key([]byte(password), k.Salt, k.N, k.R, k.P, cipherKeySize+macKeySize)
	if err != nil {
		return nil, mac, err
	}
	block, err = aes.NewCipher(derived[:cipherKeySize])
	copy(mac[:], derived[cipherKeySize:])
	return block, mac, err
}

// tag is Poly1305-AES: of the 32 bytes of the key, the first half encrypts the nonce and
// the second one is r.
func tag(mac [macKeySize]byte, iv, text []byte) (sum [macSize]byte, err error) {
	block, err := aes.NewCipher(mac[:macKeySize/2])
	if err != nil {
		return sum, err
	}
	var once [macKeySize]byte
	copy(once[:], mac[macKeySize/2:])
	block.Encrypt(once[macKeySize/2:], iv)
	poly1305.Sum(&sum, text, &once)
	return sum, nil
}

func (k resticKey) open(password string) (master []byte, err error) {
	block, mac, err := k.derive(password)
	if err != nil {
		return nil, err
	}
	if len(k.Data) < ivSize+macSize {
		return nil, errors.New("a key that is too short")
	}
	iv, text := k.Data[:ivSize], k.Data[ivSize:len(k.Data)-macSize]
	sum, err := tag(mac, iv, text)
	if err == nil && !bytes.Equal(sum[:], k.Data[len(k.Data)-macSize:]) {
		err = errors.New("the password does not open the key")
	}
	master = make([]byte, len(text))
	cipher.NewCTR(block, iv).XORKeyStream(master, text)
	return master, err
}

func (k *resticKey) seal(password string, master []byte) error {
	block, mac, err := k.derive(password)
	if err != nil {
		return err
	}
	k.Data = make([]byte, ivSize, ivSize+len(master)+macSize)
	if _, err := rand.Read(k.Data); err != nil {
		return err
	}
	text := make([]byte, len(master))
	cipher.NewCTR(block, k.Data).XORKeyStream(text, master)
	sum, err := tag(mac, k.Data, text)
	k.Data = append(append(k.Data, text...), sum[:]...)
	return err
}
