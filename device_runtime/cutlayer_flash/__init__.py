"""From a laptop to the first round on a board: releases for boards, and three ways of getting them there."""
