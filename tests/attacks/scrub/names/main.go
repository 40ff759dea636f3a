// Names in layers, by Go's archive/tar, with which engines pack and unpack them.
//
//	names write   writes a layer whose names do not fit into a tar header to standard output
//	names read    reads a layer from standard input, and writes each entry as a line of JSON: name, type, size, link, mode,
//	              user, group, time in seconds and nanoseconds, device numbers, extended attributes
package main

import (
	"archive/tar"
	"encoding/json"
	"io"
	"log"
	"os"
	"strings"
	"time"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == "write" {
		write()
	} else if len(os.Args) == 2 && os.Args[1] == "read" {
		read()
	} else {
		log.Fatal("usage: names write|read")
	}
}

func read() {
	// JSON has no byte strings: a name that is no UTF-8 would not survive it.
	numbers := func(text string) []int {
		values := make([]int, len(text))
		for at := range values {
			values[at] = int(text[at])
		}
		return values
	}
	layer, lines := tar.NewReader(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		header, err := layer.Next()
		if err == io.EOF {
			return
		}
		if err != nil {
			log.Fatal(err)
		}
		attributes := [][]any{}
		for key, value := range header.PAXRecords {
			if name, found := strings.CutPrefix(key, "SCHILY.xattr."); found {
				attributes = append(attributes, []any{numbers(name), numbers(value)})
			}
		}
		entry := []any{
			numbers(header.Name), string(header.Typeflag), header.Size, numbers(header.Linkname),
			header.Mode & 0o7777, header.Uid, header.Gid, header.ModTime.Unix(), header.ModTime.Nanosecond(),
			header.Devmajor, header.Devminor, attributes,
		}
		if err := lines.Encode(entry); err != nil {
			log.Fatal(err)
		}
	}
}

func write() {
	when := time.Unix(1_700_000_000, 0)
	long := strings.Repeat("長", 60) // 180 bytes
	layer := tar.NewWriter(os.Stdout)
	add := func(header tar.Header, content string) {
		header.ModTime, header.Size = when, int64(len(content))
		if header.Mode == 0 {
			header.Mode = 0o644
		}
		if err := layer.WriteHeader(&header); err != nil {
			log.Fatal(err)
		}
		if _, err := layer.Write([]byte(content)); err != nil {
			log.Fatal(err)
		}
	}
	folder := func(name string, format tar.Format) {
		add(tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755, Format: format}, "")
	}
	file := func(name string, format tar.Format) {
		add(tar.Header{Typeflag: tar.TypeReg, Name: name, Format: format}, "content of "+name)
	}
	for _, format := range []struct {
		is        tar.Format
		name, top string
	}{{tar.FormatUnknown, "go", "一"}, {tar.FormatPAX, "pax", "二"}, {tar.FormatGNU, "gnu", "三"}} {
		at := format.name + "/"
		file(format.top, format.is)
		folder(format.name, format.is)
		for _, name := range []string{"日本語", "größe", "語.txt", strings.Repeat("n", 120), long} {
			file(at+name, format.is)
			folder(at+"folder "+name, format.is)
			file(at+"folder "+name+"/"+name, format.is)
		}
		folder(at+"フォルダ", format.is)
		file(at+"フォルダ/名前", format.is)
		for _, target := range []string{"日本語", long} {
			add(tar.Header{Typeflag: tar.TypeSymlink, Name: at + "リンク" + target, Linkname: target, Mode: 0o777, Format: format.is}, "")
			add(tar.Header{Typeflag: tar.TypeLink, Name: at + "別名" + target, Linkname: at + target, Format: format.is}, "")
		}
		add(tar.Header{Typeflag: tar.TypeReg, Name: at + "空", Format: format.is}, "")
	}
	add(tar.Header{
		Typeflag: tar.TypeReg, Name: "pax/属性", PAXRecords: map[string]string{"SCHILY.xattr.user.mine": "1"},
	}, "with an attribute")
	if err := layer.Close(); err != nil {
		log.Fatal(err)
	}
}
