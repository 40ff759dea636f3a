// Checks a ledger that boltseal wrote with the code that checks Go's checksum database, unmodified
// (golang.org/x/mod/sumdb/note and tlog, as Debian packages them), and writes vectors for boltseal to check.
//
//	tlog verify DIR VKEY           checkpoint, every entry, and each DIR/old/* against the checkpoint
//	tlog receipt FILE VKEY         one .tlog-proof
//	tlog vectors                   JSON, see tests/ledger/vectors
package main

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const height = 8

func main() {
	var err error
	switch os.Args[1] {
	case "verify":
		err = verify(os.Args[2], os.Args[3])
	case "receipt":
		err = receipt(os.Args[2], os.Args[3])
	case "vectors":
		err = vectors()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func open(raw []byte, vkey string) (tlog.Tree, error) {
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		return tlog.Tree{}, err
	}
	opened, err := note.Open(raw, note.VerifierList(verifier))
	if err != nil {
		return tlog.Tree{}, err
	}
	lines := strings.Split(opened.Text, "\n")
	if len(lines) != 4 || lines[0] != verifier.Name() {
		return tlog.Tree{}, fmt.Errorf("not a checkpoint: %q", opened.Text)
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil {
		return tlog.Tree{}, err
	}
	root, err := tlog.ParseHash(lines[2])
	return tlog.Tree{N: size, Hash: root}, err
}

// tiles reads tiles from a folder laid out as C2SP tlog-tiles says, which leaves the height out of the path.
type tiles struct{ dir string }

func (t tiles) Height() int                     { return height }
func (t tiles) SaveTiles([]tlog.Tile, [][]byte) {}
func (t tiles) ReadTiles(all []tlog.Tile) (data [][]byte, err error) {
	for _, tile := range all {
		path := "tile/" + strings.TrimPrefix(tile.Path(), fmt.Sprintf("tile/%d/", height))
		raw, err := os.ReadFile(filepath.Join(t.dir, path))
		if err != nil {
			return nil, err
		}
		data = append(data, raw)
	}
	return data, nil
}

func entries(dir string, size int64) (all [][]byte, err error) {
	for start := int64(0); start < size; start += 1 << height {
		tile := tlog.Tile{H: height, L: 0, N: start >> height, W: int(min(size-start, 1<<height))}
		path := "tile/entries/" + strings.TrimPrefix(tile.Path(), fmt.Sprintf("tile/%d/0/", height))
		raw, err := os.ReadFile(filepath.Join(dir, path))
		if err != nil {
			return nil, err
		}
		for len(raw) > 0 {
			length := int(binary.BigEndian.Uint16(raw))
			all = append(all, raw[2:2+length])
			raw = raw[2+length:]
		}
	}
	if int64(len(all)) != size {
		return nil, fmt.Errorf("%d entries in the bundles, %d in the checkpoint", len(all), size)
	}
	return all, nil
}

func verify(dir, vkey string) error {
	raw, err := os.ReadFile(filepath.Join(dir, "checkpoint"))
	if err != nil {
		return err
	}
	tree, err := open(raw, vkey)
	if err != nil {
		return err
	}
	all, err := entries(dir, tree.N)
	if err != nil {
		return err
	}
	reader := tlog.TileHashReader(tree, tiles{dir})
	for index, entry := range all {
		proof, err := tlog.ProveRecord(tree.N, int64(index), reader)
		if err != nil {
			return fmt.Errorf("entry %d: %w", index, err)
		}
		if err := tlog.CheckRecord(proof, tree.N, tree.Hash, int64(index), tlog.RecordHash(entry)); err != nil {
			return fmt.Errorf("entry %d: %w", index, err)
		}
	}
	olds, err := filepath.Glob(filepath.Join(dir, "old", "*"))
	if err != nil {
		return err
	}
	for _, path := range olds {
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		old, err := open(raw, vkey)
		if err != nil {
			return err
		}
		proof, err := tlog.ProveTree(tree.N, old.N, reader)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if err := tlog.CheckTree(proof, tree.N, tree.Hash, old.N, old.Hash); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	fmt.Printf("%d entries and %d older checkpoints hold\n", tree.N, len(olds))
	return nil
}

func receipt(path, vkey string) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	head, checkpoint, _ := bytes.Cut(raw, []byte("\n\n"))
	lines := strings.Split(string(head), "\n")
	entry, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(lines[1], "extra "))
	if err != nil {
		return err
	}
	index, err := strconv.ParseInt(strings.TrimPrefix(lines[2], "index "), 10, 64)
	if err != nil {
		return err
	}
	var proof tlog.RecordProof
	for _, line := range lines[3:] {
		hash, err := tlog.ParseHash(line)
		if err != nil {
			return err
		}
		proof = append(proof, hash)
	}
	tree, err := open(checkpoint, vkey)
	if err != nil {
		return err
	}
	if err := tlog.CheckRecord(proof, tree.N, tree.Hash, index, tlog.RecordHash(entry)); err != nil {
		return err
	}
	fmt.Printf("entry %d holds\n", index)
	return nil
}

type inclusion struct {
	Size, Index int64
	Proof       []tlog.Hash
}

type consistency struct {
	New, Old int64
	Proof    []tlog.Hash
}

type place struct {
	Level, Index, Width int64
	Path                string
}

// vectors: the entries are "entry 0", "entry 1", ...; the key is made from a seed of 32 bytes 0, 1, ... 31.
func vectors() error {
	var seed []byte
	for i := range 32 {
		seed = append(seed, byte(i))
	}
	skey, vkey, err := note.GenerateKey(bytes.NewReader(seed), "reg.example/ledger")
	if err != nil {
		return err
	}
	signer, err := note.NewSigner(skey)
	if err != nil {
		return err
	}
	text := "reg.example/ledger\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n"
	signed, err := note.Sign(&note.Note{Text: text}, signer)
	if err != nil {
		return err
	}

	const most = 600
	var stored []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) (hashes []tlog.Hash, err error) {
		for _, index := range indexes {
			hashes = append(hashes, stored[index])
		}
		return hashes, nil
	})
	var sizes []int64
	roots := map[int64]tlog.Hash{}
	var inclusions []inclusion
	var consistencies []consistency
	for size := int64(1); size <= most; size++ {
		added, err := tlog.StoredHashes(size-1, []byte(fmt.Sprintf("entry %d", size-1)), reader)
		if err != nil {
			return err
		}
		stored = append(stored, added...)
		if size > 8 && size%83 != 0 && size != 256 && size != 257 && size != most {
			continue
		}
		sizes = append(sizes, size)
		if roots[size], err = tlog.TreeHash(size, reader); err != nil {
			return err
		}
		for _, index := range []int64{0, size / 3, size - 1} {
			if index >= size {
				continue
			}
			proof, err := tlog.ProveRecord(size, index, reader)
			if err != nil {
				return err
			}
			inclusions = append(inclusions, inclusion{size, index, proof})
		}
		for _, old := range sizes {
			proof, err := tlog.ProveTree(size, old, reader)
			if err != nil {
				return err
			}
			consistencies = append(consistencies, consistency{size, old, proof})
		}
	}
	var places []place
	for _, at := range []tlog.Tile{
		{H: 8, L: 0, N: 0, W: 256}, {H: 8, L: 0, N: 0, W: 1}, {H: 8, L: 1, N: 999, W: 255}, {H: 8, L: 2, N: 1000, W: 256},
		{H: 8, L: 63, N: 1234067, W: 17}, {H: 8, L: 10, N: 999999999, W: 256},
	} {
		path := "tile/" + strings.TrimPrefix(at.Path(), "tile/8/")
		places = append(places, place{int64(at.L), at.N, int64(at.W), path})
	}
	encoder := json.NewEncoder(os.Stdout)
	return encoder.Encode(map[string]any{
		"skey": skey, "vkey": vkey, "text": text, "note": string(signed), "roots": roots,
		"inclusions": inclusions, "consistencies": consistencies, "places": places,
	})
}
