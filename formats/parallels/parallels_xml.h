/* libxml2, loaded when the first DiskDescriptor.xml is opened. */
#ifndef FORMATS_PARALLELS_XML_H
#define FORMATS_PARALLELS_XML_H

#include <libxml/parser.h>
#include <stddef.h>

#include "libimg/base/error.h"

enum {
	PARALLELS_XML_BYTES_MAX = 1 << 20,
};

/*
 * Parse a document. Nothing else is opened, no entity is expanded, and what declares some is
 * refused before that. The first element is *root; the document is for parallels_xml_free().
 * -EUCLEAN: what is wrong, and in which line. -ENOPKG: no libxml2.
 */
int parallels_xml_parse(const char *text, size_t len, xmlDoc **out, xmlNode **root,
			struct img_error *err);
void parallels_xml_free(xmlDoc *doc);

/* The first child element of that name from child on, or NULL: parallels_xml_find(e->children,
 * "a"). */
xmlNode *parallels_xml_find(xmlNode *child, const char *name);
/* The element's text without the white space around it; malloc'd. NULL: no memory. */
char *parallels_xml_text(const xmlNode *element);

/* ---- Changes; all but -ENOMEM succeeds ---- */

/* One more element at the end of parent; text NULL: empty. NULL: no memory. */
xmlNode *parallels_xml_add(xmlNode *parent, const char *name, const char *text);
/* The text of a child element, which is added if there is none. */
int parallels_xml_set(xmlNode *parent, const char *name, const char *text);
/* The whole document as UTF-8, *len bytes; malloc'd. NULL: no memory. */
char *parallels_xml_print(xmlDoc *doc, size_t *len);

#endif
