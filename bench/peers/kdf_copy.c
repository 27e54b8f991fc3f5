/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * kdf_copy IN OUT [sync]: read every stored page of a dump through libkdumpfile, in one thread, and write it.
 *
 * What a competent user of the library would write today: it asks the library which pages the file holds, reads them
 * in blocks of up to BLOCK_PAGES in ascending order (no block crosses a hole), and writes each block at its place among
 * the stored pages, so that OUT is all stored pages back to back.
 */
#include <fcntl.h>
#include <libkdumpfile/kdumpfile.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef BLOCK_PAGES
#define BLOCK_PAGES 64
#endif

static void die(const char *what, const char *why)
{
	fprintf(stderr, "kdf_copy: %s: %s\n", what, why);
	exit(1);
}

static void write_all(int fd, const unsigned char *data, size_t size, off_t offset)
{
	while (size) {
		ssize_t n = pwrite(fd, data, size, offset);
		if (n <= 0)
			die("write", "failed");
		data += n;
		size -= (size_t)n;
		offset += n;
	}
}

int main(int argc, char **argv)
{
	kdump_ctx_t *ctx = kdump_new();
	kdump_attr_t map;
	kdump_num_t page_size;
	kdump_addr_t pfn = 0, end;
	unsigned char *buffer;
	off_t offset = 0;
	int in, out;

	if (argc < 3)
		die("usage", "kdf_copy IN OUT [sync]");
	in = open(argv[1], O_RDONLY);
	if (in < 0)
		die(argv[1], "cannot open");
	if (!ctx || kdump_open_fd(ctx, in) != KDUMP_OK)
		die(argv[1], ctx ? kdump_get_err(ctx) : "no memory");
	if (kdump_get_number_attr(ctx, KDUMP_ATTR_PAGE_SIZE, &page_size) != KDUMP_OK)
		die(argv[1], kdump_get_err(ctx));
	map.type = KDUMP_BITMAP;
	if (kdump_get_typed_attr(ctx, KDUMP_ATTR_FILE_PAGEMAP, &map) != KDUMP_OK)
		die("file.pagemap", kdump_get_err(ctx));
	buffer = malloc(BLOCK_PAGES * page_size);
	out = open(argv[2], O_RDWR | O_CREAT | O_TRUNC, 0600);
	if (out < 0 || !buffer)
		die(argv[2], "cannot create");

	while (kdump_bmp_find_set(map.val.bitmap, &pfn) == KDUMP_OK) {
		end = pfn;
		if (kdump_bmp_find_clear(map.val.bitmap, &end) != KDUMP_OK)
			die("file.pagemap", "no end");
		while (pfn < end) {
			size_t nr = end - pfn < BLOCK_PAGES ? end - pfn : BLOCK_PAGES;
			size_t size = nr * page_size;

			if (kdump_read(ctx, KDUMP_MACHPHYSADDR, pfn * page_size, buffer, &size) != KDUMP_OK)
				die("read", kdump_get_err(ctx));
			write_all(out, buffer, size, offset);
			offset += size;
			pfn += nr;
		}
	}
	if (argc > 3 && !strcmp(argv[3], "sync") && fsync(out))
		die(argv[2], "fsync failed");
	close(out);
	kdump_free(ctx);
	return 0;
}
