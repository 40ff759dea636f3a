// Layers as builders in Go write them, with archive/tar.
//
//	builders tree FOLDER FORMAT   packs a folder in one of archive/tar's formats: unknown, ustar, pax or gnu
//	builders ko FOLDER            packs it as ko does: absolute names, mode 0555, times of 1970, links to data
//	builders kaniko FOLDER        packs it as kaniko does: an entry "/", whiteouts, a capability as the only attribute
//	builders containerd FOLDER    packs it as containerd's differ does: PAX with access times, names without "./"
//
// Entries that a format can't hold are skipped, as a builder in that format could not write them.
package main

import (
	"archive/tar"
	"io"
	"io/fs"
	"log"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

var formats = map[string]tar.Format{
	"unknown": tar.FormatUnknown, "ustar": tar.FormatUSTAR, "pax": tar.FormatPAX, "gnu": tar.FormatGNU,
}

func main() {
	if len(os.Args) < 3 {
		log.Fatal("usage: builders tree|ko|kaniko|containerd FOLDER [FORMAT]")
	}
	layer := tar.NewWriter(os.Stdout)
	switch os.Args[1] {
	case "tree":
		tree(layer, os.Args[2], func(header *tar.Header, _ string) bool {
			header.Format = formats[os.Args[3]]
			if header.Format == tar.FormatUSTAR || header.Format == tar.FormatUnknown {
				header.AccessTime, header.ChangeTime = time.Time{}, time.Time{}
			}
			if header.Format == tar.FormatUSTAR {
				header.ModTime = header.ModTime.Truncate(time.Second)
			}
			return true
		})
	case "ko":
		ko(layer, os.Args[2])
	case "kaniko":
		kaniko(layer, os.Args[2])
	case "containerd":
		tree(layer, os.Args[2], func(header *tar.Header, path string) bool {
			header.Format = tar.FormatPAX
			header.AccessTime, header.ChangeTime = header.ModTime.Add(time.Hour), time.Time{}
			setAttributes(header, path, "")
			return true
		})
	}
	if err := layer.Close(); err != nil {
		log.Fatal(err)
	}
}

// tree writes all files below a folder in the order of their names; change sees each header first and may drop it.
func tree(layer *tar.Writer, folder string, change func(*tar.Header, string) bool) {
	seen := map[uint64]string{}
	err := filepath.WalkDir(folder, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || path == folder {
			return err
		}
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		link, _ := os.Readlink(path)
		header, err := tar.FileInfoHeader(info, link)
		if err != nil {
			return nil // a socket
		}
		header.Name, _ = filepath.Rel(folder, path)
		if info.IsDir() {
			header.Name += "/"
		} else if stat := info.Sys().(*syscall.Stat_t); stat.Nlink > 1 {
			if first, ok := seen[stat.Ino]; ok {
				header.Typeflag, header.Linkname, header.Size = tar.TypeLink, first, 0
			} else {
				seen[stat.Ino] = header.Name
			}
		}
		if change(header, path) {
			write(layer, header, path)
		}
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
}

func write(layer *tar.Writer, header *tar.Header, path string) {
	if err := layer.WriteHeader(header); err != nil {
		log.Printf("skipped %q: %v", header.Name, err)
		return
	}
	if header.Typeflag != tar.TypeReg || header.Size == 0 {
		return
	}
	content, err := os.Open(path)
	if err != nil {
		log.Fatal(err)
	}
	defer content.Close()
	if _, err := io.Copy(layer, content); err != nil {
		log.Fatal(err)
	}
}

// setAttributes adds the extended attributes of a file; with a name, only that one.
func setAttributes(header *tar.Header, path, only string) {
	names := make([]byte, 1<<16)
	size, err := syscall.Listxattr(path, names)
	if err != nil || header.Typeflag == tar.TypeSymlink {
		return
	}
	for _, name := range strings.Split(strings.TrimRight(string(names[:size]), "\x00"), "\x00") {
		value := make([]byte, 1<<16)
		if size, err := syscall.Getxattr(path, name, value); err == nil && name != "" && (only == "" || name == only) {
			if header.PAXRecords == nil {
				header.PAXRecords = map[string]string{}
			}
			header.PAXRecords["SCHILY.xattr."+name] = string(value[:size])
		}
	}
}

// ko writes the program and its data (google/ko, pkg/build/gobuild.go), for users that do not own the files.
func ko(layer *tar.Writer, folder string) {
	epoch := time.Unix(0, 0)
	for _, name := range []string{"ko-app", "var", "var/run", "var/run/ko"} {
		write(layer, &tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o555, ModTime: epoch}, "")
	}
	tree(layer, folder, func(header *tar.Header, path string) bool {
		at := "/var/run/ko/" + header.Name
		switch header.Typeflag {
		case tar.TypeDir:
			*header = tar.Header{Name: at, Typeflag: tar.TypeDir, Mode: 0o555, ModTime: epoch}
		case tar.TypeReg:
			*header = tar.Header{
				Name: at, Typeflag: tar.TypeReg, Mode: 0o555, Size: header.Size, ModTime: epoch,
				PAXRecords: map[string]string{"MSWINDOWS.rawsd": "AQAAgBQAAAAkAAAAAAAAAAAAAAA="},
			}
		default:
			return false
		}
		return true
	})
	write(layer, &tar.Header{
		Name: "/ko-app/app", Typeflag: tar.TypeSymlink, Linkname: "/var/run/ko/bin/tool", ModTime: epoch,
	}, "")
}

// kaniko writes changed files and whiteouts (GoogleContainerTools/kaniko, pkg/util/tar_util.go).
func kaniko(layer *tar.Writer, folder string) {
	write(layer, &tar.Header{Name: "/", Typeflag: tar.TypeDir, Mode: 0o777, Uid: 1000, Gid: 1000, ModTime: time.Unix(1, 0)}, "")
	tree(layer, folder, func(header *tar.Header, path string) bool {
		setAttributes(header, path, "security.capability")
		return true
	})
	for _, gone := range []string{"etc/.wh.removed", "srv/.wh.all", ".wh.removed"} {
		write(layer, &tar.Header{Name: gone}, "")
	}
}
